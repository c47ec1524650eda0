"""Many processes do what one does, survive what can happen to them, and say what is wrong (gloo on a CPU)."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

import fathom
from fathom.training.checkpoint import finished

from .processes import finish, start, weights

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FATHOM_KILLS", "3"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, undisturbed, in float64."""
    folder = tmp_path_factory.mktemp("alone")
    codes, said = finish(start(1, folder, double=True))
    assert codes == [0], said
    return folder


def furthest(a, b):
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("count", "changes"),
    [(1, {"micro_batch": 2}), (2, {}), (2, {"micro_batch": 2, "recompute": True}), (4, {"shard": 2})],
)
def test_the_same_mathematics(count, changes, alone, tmp_path):
    codes, said = finish(start(count, tmp_path, double=True, **changes))
    assert set(codes) == {0}, said
    assert furthest(tmp_path, alone) < 1e-10
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-6)


def test_the_same_losses_in_fp32(tmp_path):
    for count in (1, 2):
        codes, said = finish(start(count, tmp_path / str(count)))
        assert set(codes) == {0}, said
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


def test_other_numbers_of_processes_go_on(alone, tmp_path):
    """Two processes begin, one goes on, four end it: weights, averages, moments and the data's place with them."""
    for count, until in ((2, 3), (1, 5), (4, None)):
        words = {} if until is None else {"fault": "terminate", "at": until}
        codes, said = finish(start(count, tmp_path, double=True, **words))
        assert set(codes) == {143 if until else 0}, said
        if until:
            assert finished(tmp_path)[-1].step == until + 1
    assert furthest(tmp_path, alone) < 1e-10


def newest_step(folder):
    return max((saved.step for saved in finished(folder)), default=0)


def kill_somewhere(folder, moments, **words):
    """Start a run again and again, killing one of its processes at random moments; how often it was not done yet."""
    killed = 0
    for moment in moments:
        before, deadline = newest_step(folder), time.monotonic() + 120
        processes = start(2, folder, **words)
        # The moments count from the first checkpoint on: before it there is nothing to lose.
        while newest_step(folder) == before and time.monotonic() < deadline and processes[0].poll() is None:
            time.sleep(0.01)
        time.sleep(moment)
        victim = processes[int(moment * 1e6) % 2]
        killed += victim.poll() is None
        for process in (victim, *processes):  # the other one would wait until its time is over
            process.send_signal(signal.SIGKILL)
        finish(processes)
    codes, said = finish(start(2, folder, **words))
    assert codes == [0, 0], said
    return killed


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    """Three times, or as often as FATHOM_KILLS says."""
    words = {"steps": 10 * KILLS + 10, "checkpoint_every": 2, "delay": 0.03}
    codes, said = finish(start(2, tmp_path / "whole", **words))
    assert codes == [0, 0], said
    generator = random.Random(0)
    moments = [generator.uniform(0, 0.4) for _ in range(KILLS)]
    assert kill_somewhere(tmp_path / "killed", moments, **words) > KILLS // 2
    ours, theirs = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_is_killed_during_a_save_takes_the_checkpoint_before(alone, tmp_path):
    codes, _ = finish(start(1, tmp_path, double=True, fault="kill in save", at=4))
    assert codes == [-signal.SIGKILL]
    assert [saved.step for saved in finished(tmp_path)] == [2]
    assert list(tmp_path.glob("checkpoints/.step-*"))  # half of one lies about
    codes, said = finish(start(1, tmp_path, double=True))
    assert codes == [0], said
    assert furthest(tmp_path, alone) == 0
    assert not list(tmp_path.glob("checkpoints/.step-*"))


def test_a_full_disk_is_told_once(tmp_path):
    codes, said = finish(start(2, tmp_path, fault="full disk", at=4))
    assert codes == [2, 2], said
    assert "the disk is full" in said[0] and "Traceback" not in said[0]
    assert [saved.step for saved in finished(tmp_path)] == [2]


@pytest.mark.parametrize("fault", ["hang", "freeze"])
def test_a_rank_that_hangs_is_named(fault, tmp_path):
    """Whether its main thread waits for ever or all of it is stopped."""
    processes = start(2, tmp_path, fault=fault, at=3, rank_timeout_s=10)
    begin = time.monotonic()
    try:
        said = processes[0].communicate(timeout=120)[0]
    finally:
        for process in processes:
            process.kill()
    finish(processes)
    assert processes[0].returncode == 1
    assert "rank 1 of 2 got no further for 10 s" in said
    assert time.monotonic() - begin < 120


def test_what_one_rank_dies_of_is_said_by_the_first(tmp_path):
    codes, said = finish(start(2, tmp_path, fault="error", at=3))
    assert codes == [2, 2]
    assert said[0].count("frame 7 of this process's part cannot be read") == 1
    assert "frame 7" not in said[1]


def test_a_batch_that_cannot_be_shared(tmp_path):
    codes, said = finish(start(2, tmp_path, batch_size=7))
    assert codes == [2, 2]
    assert "training.batch_size is 7, which 2 processes cannot share evenly" in said[0]
    assert "fathom" not in said[1]  # torch may warn of something


def test_no_free_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (first, second) = start(2, tmp_path, port=taken.getsockname()[1], rank_timeout_s=5)
        second.kill()
        codes, said = finish([first])
    assert codes == [2]
    assert "cannot meet at 127.0.0.1" in said[0] and "--master-port" in said[0]


def test_a_missing_shard_of_every_checkpoint(tmp_path):
    finish(start(2, tmp_path))
    for saved in finished(tmp_path):
        next(iter(sorted(saved.folder.glob("*.safetensors")))).unlink()
    codes, said = finish(start(2, tmp_path))
    assert codes == [2, 2]
    assert "holds no checkpoint that is whole (shard-00001-model-00001-of-00001.safetensors is missing)" in said[0]


@pytest.mark.parametrize(
    ("recipe", "precision"), [("quickstart", "fp32"), ("deepvision_quickstart", "fp32"), ("quickstart", "bf16")]
)
def test_torchrun_trains_a_policy_as_one_process_does(recipe, precision, dataset, tmp_path):
    """The whole command: towers, streams that meet, experts; the saved policy is an ordinary one."""
    options = ["train", str(dataset), "--recipe", recipe, "--policy.depth", "none", "--policy.horizon", "4"]
    for name, value in {"steps": 4, "batch-size": 8, "log-every": 1, "checkpoint-every": 2}.items():
        options += [f"--training.{name}", str(value)]
    options += ["--training.precision", precision]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, "-m", "fathom", *options, "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    bound = 1e-4 if precision == "fp32" else 0.05
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=bound)
    one, two = (fathom.load_policy(tmp_path / name) for name in ("one", "two"))
    if precision == "fp32":
        for (name, ours), theirs in zip(two.named_parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=name)
