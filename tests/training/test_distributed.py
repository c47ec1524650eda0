"""Many processes do what one does, survive what can happen to them, and say what is wrong (gloo on a CPU)."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest.mock import Mock, patch

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fathom
from fathom.cli.main import main
from fathom.training.checkpoint import finished
from fathom.training.config import TrainingConfig
from fathom.training.distributed import World

from .conftest import TOKENIZER
from .processes import Ranks
from .small_training import begin

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FATHOM_KILLS", "3"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, undisturbed, in float64."""
    return trained(1, tmp_path_factory.mktemp("alone"), double=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes, undisturbed, in float64."""
    return trained(2, tmp_path_factory.mktemp("pair"), double=True)


def trained(count, folder, **words):
    codes, said = begin(count, folder, **words).finish()
    assert set(codes) == {0}, said
    return folder


def weights(folder):
    return load_file(folder / "weights.safetensors")


def furthest(a, b):
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def losses(folder, of="loss"):
    return [json.loads(line)[of] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def done(folder):
    return json.loads((folder / "done.json").read_text())


def steps_saved(folder):
    return [saved.step for saved in finished(folder)]


class TestOneMathematics:
    """One process, two or four; a batch whole or in parts: the same weights."""

    def test_two_processes(self, alone, pair):
        assert furthest(pair, alone) < 1e-10
        assert losses(pair) == pytest.approx(losses(alone), rel=1e-6)

    @pytest.mark.parametrize(
        ("count", "changes"), [(2, {"micro_batch": 2, "recompute": True}), (2, {"compile": True}), (4, {"shard": 2})]
    )
    def test_other_ways(self, count, changes, alone, tmp_path):
        trained(count, tmp_path, double=True, **changes)
        assert furthest(tmp_path, alone) < 1e-10
        assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-6)
        assert (done(tmp_path)["compiled"] > 0) == ("compile" in changes)

    def test_parts_of_a_batch_are_added_up_before_they_are_sent(self, pair, tmp_path):
        in_parts = trained(2, tmp_path, double=True, micro_batch=2)
        # Twice as often, if each part were sent; a layer that is entered twice has its first half to send at once.
        assert 0 < done(in_parts)["summed"] < 1.5 * done(pair)["summed"]

    def test_other_numbers_of_processes_go_on(self, alone, tmp_path):
        """Two processes begin, one goes on, four end it: weights, averages, moments and the data's place with them."""
        for count, until in ((2, 3), (1, 5)):
            codes, said = begin(count, tmp_path, double=True, fault="terminate", at=until).finish()
            assert set(codes) == {143}, said
            assert steps_saved(tmp_path)[-1] == until + 1
        trained(4, tmp_path, double=True)
        assert furthest(tmp_path, alone) < 1e-10


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cuda", "bf16", torch.bfloat16), ("cpu", "bf16", torch.float32), ("cuda", "fp32", torch.float32)],
)
def test_what_layers_are_gathered_in(device, precision, expected, tmp_path):
    """On a GPU bf16, while what is kept, what is in no layer and the gradients' sum stay in fp32."""
    gathered = []

    class Linear(nn.Linear):
        def forward(self, x):
            gathered.append(self.weight.dtype)
            return super().forward(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList([Linear(3, 8)]), Linear(8, 1)

        def forward(self, x):
            return self.head(self.layers[0](x))

    model = Model()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))  # one process in the place of two: what it gathers, it gathers alike
        with (
            patch("fathom.training.distributed.pick_device", lambda: torch.device(device)),
            patch.object(World, "_mesh", lambda *_: mesh),
            patch("fathom.training.distributed.fully_shard", Mock(side_effect=fully_shard)) as sharded,
        ):
            World(size=2).share_out(model, TrainingConfig(precision=precision))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            model(torch.ones(1, 3)).sum().backward()
    finally:
        dist.destroy_process_group()
    assert gathered == [expected, torch.float32]
    summed = [call.kwargs["mp_policy"].reduce_dtype for call in sharded.call_args_list if "mp_policy" in call.kwargs]
    assert summed == [torch.float32 if expected == torch.bfloat16 else None]  # None: as the weights are, fp32
    assert {kept.dtype for p in model.parameters() for kept in (p, p.grad)} == {torch.float32}


class TestKilled:
    def test_at_random_moments_it_ends_with_the_same_bits(self, tmp_path):
        """Three times, or as often as FATHOM_KILLS says."""
        words = {"steps": 10 * KILLS + 10, "checkpoint_every": 2, "delay": 0.03}
        whole, generator = trained(2, tmp_path / "whole", **words), random.Random(0)
        killed = sum(kill_once(tmp_path / "killed", generator.uniform(0, 0.4), **words) for _ in range(KILLS))
        assert killed > KILLS // 2
        assert furthest(trained(2, tmp_path / "killed", **words), whole) == 0

    @pytest.mark.parametrize(("count", "moment"), [(2, "killed when written"), (1, "killed before the renaming")])
    def test_during_a_save_the_checkpoint_before_is_taken(self, count, moment, alone, pair, tmp_path):
        """Nobody is left who could clear away what is unfinished."""
        codes, said = begin(count, tmp_path, double=True, fault=moment, at=4).finish()
        assert set(codes) == {-signal.SIGKILL}, said
        assert steps_saved(tmp_path) == [2]
        (unfinished,) = tmp_path.glob("checkpoints/.step-*")
        assert len(list(unfinished.glob("*.safetensors"))) == count
        assert (unfinished / "checkpoint.json").is_file() == (moment == "killed before the renaming")
        assert furthest(trained(count, tmp_path, double=True), pair if count == 2 else alone) == 0
        assert not list(tmp_path.glob("checkpoints/.step-*"))


def kill_once(folder, moment, **words):
    """Kill one of two processes at a moment (seconds) after the first save; whether it was not done yet."""
    before, deadline = steps_saved(folder)[-1:], time.monotonic() + 120
    ranks = begin(2, folder, **words)
    while steps_saved(folder)[-1:] == before and time.monotonic() < deadline and ranks.processes[0].is_alive():
        time.sleep(0.01)
    time.sleep(moment)
    victim = ranks.processes[int(moment * 1e6) % 2]
    running = victim.is_alive()
    victim.kill()
    ranks.finish(timeout=0)  # the other one would look for the one that is gone
    return running


class TestFailures:
    """What goes wrong in one process ends all, and is told once, by the first that can; nobody else is blamed."""

    @pytest.mark.parametrize("fault", ["hang", "freeze"])
    def test_a_rank_that_hangs_is_named(self, fault, tmp_path):
        """Whether its main thread waits for ever or all of it is stopped."""
        ranks = begin(2, tmp_path, fault=fault, at=3, rank_timeout_s=5)
        ranks.processes[0].join(120)
        codes, said = ranks.finish(timeout=0)
        assert codes[0] == 1, said
        assert "fathom: rank 1 of 2 got no further for 5 s" in said[0]
        assert "rank 0" not in said[0]

    def test_a_rank_that_dies_is_named(self, tmp_path):
        """Long before it would count as hung."""
        codes, said = begin(2, tmp_path, fault="die", at=3).finish(timeout=120)
        assert codes[1] == -signal.SIGKILL
        assert codes[0] > 0, said
        assert "fathom: rank 1 of 2 died" in said[0]
        assert "rank 0" not in said[0]

    def test_it_is_named_although_torchrun_ends_the_others_at_once(self, tmp_path):
        ranks = begin(2, tmp_path, fault="die", at=3)
        ranks.processes[1].join(120)
        time.sleep(0.5)  # torchrun looks after its processes from time to time
        ranks.processes[0].terminate()
        codes, said = ranks.finish(timeout=120)
        assert codes == [2, -signal.SIGKILL]
        assert "fathom: rank 1 of 2 died" in said[0]

    def test_the_first_rank_is_named_by_the_next(self, tmp_path):
        codes, said = begin(3, tmp_path, fault="die", at=3, rank=0, batch_size=6).finish(timeout=120)
        assert codes[0] == -signal.SIGKILL and 0 not in codes
        assert "fathom: rank 0 of 3 died" in said[1]

    def test_a_rank_that_dies_when_the_steps_are_done_is_named(self, tmp_path):
        codes, said = begin(2, tmp_path, fault="die at last").finish(timeout=120)
        assert codes == [2, -signal.SIGKILL]
        assert "fathom: rank 1 of 2 died" in said[0]

    def test_what_one_rank_finds_wrong_is_said_by_the_first(self, tmp_path):
        codes, said = begin(2, tmp_path, fault="error", at=3).finish()
        assert codes == [2, 2]
        assert said[0].count("fathom: frame 7 of this process's part cannot be read") == 1
        assert "frame 7" not in said[1]

    def test_a_full_disk(self, tmp_path):
        codes, said = begin(2, tmp_path, fault="full disk", at=4).finish()
        assert codes == [2, 2], said
        assert "the disk is full" in said[0] and "Traceback" not in said[0]
        assert "the disk is full" not in said[1]
        assert steps_saved(tmp_path) == [2]


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "value", "sentence"),
        [
            ("batch_size", 7, "training.batch_size is 7, which 2 processes cannot share evenly"),
            ("shard", 3, "training.shard is 3, which does not divide"),
        ],
    )
    def test_a_number_that_cannot_be_shared(self, field, value, sentence, tmp_path):
        codes, said = begin(2, tmp_path, **{field: value}).finish()
        assert codes == [2, 2], said
        assert said[0].count(f"fathom: {sentence}") == 1
        assert "fathom:" not in said[1]

    def test_a_port_that_is_taken(self, tmp_path):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            codes, said = begin(2, tmp_path, port=taken.getsockname()[1], rank_timeout_s=5).finish(timeout=100)
        assert codes == [2, 2]  # a stranger who has the port never answers: nobody waits for ever
        assert "cannot meet at 127.0.0.1" in said[0] and "--master-port" in said[0]
        assert "rank 1 of 2 did not meet the others" in said[1]

    def test_a_folder_that_the_machines_do_not_share(self, tmp_path):
        codes, said = begin(2, tmp_path, fault="a folder of its own").finish()
        assert codes == [2, 2]
        assert said[0].count("rank 1 does not see") == 1 and "that all machines share" in said[0]
        assert finished(tmp_path) == []

    def test_a_shard_missing_of_every_checkpoint(self, pair, tmp_path):
        folder = shutil.copytree(pair, tmp_path / "run")
        for saved in finished(folder):
            min(saved.folder.glob("*.safetensors")).unlink()
        codes, said = begin(2, folder, double=True).finish()
        assert codes == [2, 2]
        assert "holds no checkpoint that is whole (shard-00001-model-00001-of-00001.safetensors is missing)" in said[0]


class TestPolicy:
    """The whole command: towers, streams that meet, experts; the saved policy is an ordinary one."""

    def test_torchrun_trains_it_with_depth_as_one_process_does(self, dataset, tokenizer_folder, tmp_path):
        depth = TOKENIZER.tokenizer
        words = [*command(dataset, "quickstart", "fp32"), "--tokenizer", str(tokenizer_folder)]
        words += ["--policy.depth.grid", str(depth.grid), "--policy.depth.image-size", str(depth.image_size)]
        words += ["--policy.depth.codes", str(depth.codes), "--policy.depth.code-dim", str(depth.code_dim)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        two = [*torchrun, "-m", "fathom", *words, "--out", str(tmp_path / "two")]
        done = subprocess.run(two, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert main([*words, "--out", str(tmp_path / "one")]) == 0
        assert_same_training(tmp_path / "two", tmp_path / "one", of="depth_loss")
        assert_same_training(tmp_path / "two", tmp_path / "one")
        assert_same_policy(tmp_path / "two", tmp_path / "one")

    def test_two_processes_train_another_kind(self, dataset, tmp_path):
        train_twice(command(dataset, "deepvision_quickstart", "fp32"), tmp_path)
        assert_same_training(tmp_path / "two", tmp_path / "one")
        assert_same_policy(tmp_path / "two", tmp_path / "one")

    def test_two_processes_train_it_in_bf16(self, dataset, tmp_path):
        train_twice([*command(dataset, "quickstart", "bf16"), "--policy.depth", "none"], tmp_path)
        assert_same_training(tmp_path / "two", tmp_path / "one", rel=0.05)
        fathom.load_policy(tmp_path / "two")


def command(dataset, recipe, precision):
    words = ["train", str(dataset), "--recipe", recipe, "--policy.horizon", "4", "--training.precision", precision]
    for name, value in {"steps": 4, "batch-size": 8, "log-every": 1, "checkpoint-every": 2}.items():
        words += [f"--training.{name}", str(value)]
    return words


def train_twice(words, folder):
    """With two processes, and with this one."""
    codes, said = Ranks(2, folder, main, [*words, "--out", str(folder / "two")]).finish()
    assert codes == [0, 0], said
    assert main([*words, "--out", str(folder / "one")]) == 0


def assert_same_training(two, one, of="loss", rel=1e-4):
    assert losses(two, of) == pytest.approx(losses(one, of), rel=rel)


def assert_same_policy(two, one):
    ours, theirs = fathom.load_policy(two), fathom.load_policy(one)
    for (name, tensor), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(tensor, other, atol=1e-4, rtol=1e-3, msg=name)
