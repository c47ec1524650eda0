"""Tokenizer and policy trained for a few steps on a dataset of four short episodes, killed, resumed, and refused."""

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from fathom.cli.main import main
from fathom.depth import quantizers
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.policies import load_policy
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLA
from fathom.training.checkpoint import _Writer, finished
from fathom.training.config import OptimizerConfig
from fathom.training.distributed import ALONE, World
from fathom.training.policy import train_policy, train_policy_in
from fathom.training.tokenizer import read_score, train_tokenizer

from .conftest import EVERY, POLICY, STEPS, TOKENIZER, TRAINING, WITHOUT_DEPTH, record


class Killed(Exception):
    pass


def kill() -> None:
    raise Killed


def watch(
    patch: pytest.MonkeyPatch, model: type, kill_at: int | None = None, how: Callable[[], None] = kill
) -> list[int]:
    """The steps that a model does from now on; at ``kill_at`` something happens, by default the run is killed."""
    original, done = model.loss, []

    def loss(self, *arguments):
        if len(done) == kill_at:
            how()
        done.append(len(done))
        return original(self, *arguments)

    patch.setattr(model, "loss", loss)
    return done


@contextmanager
def killed(model: type, step: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, model, step)
        with pytest.raises(Killed):
            yield


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestTokenizer:
    def test_what_is_left_behind(self, tokenizer_folder):
        assert names(tokenizer_folder) >= {"config.json", "model.safetensors", "score.json", "metrics.jsonl"}
        assert not finished(tokenizer_folder)
        assert [line["step"] for line in log(tokenizer_folder)] == list(range(1, STEPS + 1))
        assert read_score(tokenizer_folder).frames == 8  # those of the validation episode

    def test_it_has_learnt(self, dataset, tmp_path):
        longer = replace(TOKENIZER.training, steps=40, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2))
        train_tokenizer(dataset, replace(TOKENIZER, training=longer), tmp_path / "longer")
        reconstruction = [line["reconstruction"] for line in log(tmp_path / "longer")]
        assert np.mean(reconstruction[-5:]) < 0.5 * np.mean(reconstruction[:5])

    @pytest.mark.parametrize("kill_at", [1, 3, 5])
    def test_a_killed_run_ends_with_the_same_bits(self, kill_at, dataset, tokenizer_folder, monkeypatch, tmp_path):
        """K-means of the first step and the optimiser's moments among them."""
        with killed(DepthTokenizer, kill_at):
            train_tokenizer(dataset, TOKENIZER, tmp_path / "run")
        assert "config.json" not in names(tmp_path / "run")
        done = watch(monkeypatch, DepthTokenizer)
        train_tokenizer(dataset, TOKENIZER, tmp_path / "run")
        assert len(done) == STEPS - kill_at // EVERY * EVERY  # it went on from the checkpoint
        assert weights(tmp_path / "run") == weights(tokenizer_folder)

    def test_a_killed_run_replaces_dead_codes_alike(self, dataset, monkeypatch, tmp_path):
        """Few codes die in so few steps: here all below an average use count as dead."""
        replaced, replace_codes = [], Codebook.replace
        monkeypatch.setitem(quantizers._SETTINGS, "threshold_ema_dead_code", 16)
        monkeypatch.setattr(Codebook, "replace", lambda *a, **k: (replaced.append(1), replace_codes(*a, **k))[1])
        train_tokenizer(dataset, TOKENIZER, tmp_path / "whole")
        with killed(DepthTokenizer, 3):
            train_tokenizer(dataset, TOKENIZER, tmp_path / "killed")
        replaced.clear()
        train_tokenizer(dataset, TOKENIZER, tmp_path / "killed")
        assert replaced  # after the kill too
        assert weights(tmp_path / "killed") == weights(tmp_path / "whole")

    def test_a_collapsed_codebook_is_told(self, dataset, tmp_path, monkeypatch):
        monkeypatch.setattr("fathom.training.tokenizer.LEAST_USAGE", 1.1)
        with pytest.raises(UserError, match="collapsed"):
            train_tokenizer(dataset, TOKENIZER, tmp_path / "run")
        assert not {"config.json", "model.safetensors", "score.json"} & names(tmp_path / "run")

    def test_a_dataset_without_depth(self, tmp_path):
        root = record(tmp_path / "dataset", depth=False)
        with pytest.raises(UserError, match="depth"):
            train_tokenizer(root, TOKENIZER, tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestPolicy:
    def test_what_is_left_behind(self, dataset, tokenizer, tokenizer_folder, monkeypatch, tmp_path):
        done = watch(monkeypatch, QDepthVLA)
        policy = train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        found = names(tmp_path / "run")
        assert found >= {"config.json", "model.safetensors", "normalization.json", "tokenizer.json", "metrics.jsonl"}
        assert not any(name.startswith("checkpoints") for name in found)
        assert weights(tmp_path / "run" / "depth_tokenizer") == weights(tokenizer_folder)
        assert (policy.config.state_dim, policy.config.action_dim) == (5, 3)
        lines = log(tmp_path / "run")
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        for line in lines:
            assert line.keys() >= {"loss", "action_loss", "depth_loss", "depth_accuracy", "grad_norm", "lr"}
            assert 0 <= line["depth_accuracy"] <= 1
            total = line["action_loss"] + line["depth_weight"] * line["depth_loss"]
            assert line["loss"] == pytest.approx(total, rel=1e-5)
        again = train_policy(dataset, POLICY, tmp_path / "run", tokenizer)  # it is done: nothing is trained
        assert len(done) == STEPS
        assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))

    def test_without_depth_it_needs_no_tokenizer(self, dataset, tmp_path):
        train_policy(dataset, WITHOUT_DEPTH, tmp_path / "run")
        assert not any("depth" in name for name in log(tmp_path / "run")[-1])
        assert "depth_tokenizer/config.json" not in names(tmp_path / "run")
        assert load_policy(tmp_path / "run").config.depth is None

    @pytest.mark.parametrize(("precision", "in_memory"), [("fp32", True), ("bf16", True), ("fp32", False)])
    def test_a_killed_run_ends_with_the_same_bits(
        self, precision, in_memory, dataset, tokenizer, monkeypatch, tmp_path
    ):
        recipe = replace(POLICY, training=replace(TRAINING, precision=precision, in_memory=in_memory))
        train_policy(dataset, recipe, tmp_path / "whole", tokenizer)
        with killed(QDepthVLA, 3):
            train_policy(dataset, recipe, tmp_path / "killed", tokenizer)
        assert finished(tmp_path / "killed")[-1].step == EVERY
        assert "config.json" not in names(tmp_path / "killed")
        done = watch(monkeypatch, QDepthVLA)
        train_policy(dataset, recipe, tmp_path / "killed", tokenizer)
        assert len(done) == STEPS - EVERY
        assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
        assert [line["step"] for line in log(tmp_path / "killed")] == list(range(1, STEPS + 1))

    def test_a_run_goes_on_with_other_means(self, dataset, tokenizer, tmp_path):
        """Our own remedies are not refused: what changes no weights may be changed."""
        train_policy(dataset, POLICY, tmp_path / "whole", tokenizer)
        with killed(QDepthVLA, 3):
            train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        changed = replace(
            TRAINING, recompute=True, log_every=3, checkpoint_every=3, keep_last=1, keep_best=1, on_bad_loss="skip",
            loss_limit=1e9, rank_timeout_s=5.0, workers=1,
        )  # fmt: skip
        train_policy(dataset, replace(POLICY, training=changed), tmp_path / "run", tokenizer)
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")

    @pytest.mark.parametrize("changes", [{"micro_batch": 2}, {"in_memory": False}])
    def test_or_comes_to_the_same_but_for_rounding(self, changes, dataset, tokenizer, tmp_path):
        train_policy(dataset, POLICY, tmp_path / "whole", tokenizer)
        with killed(QDepthVLA, 3):
            train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        train_policy(dataset, replace(POLICY, training=replace(TRAINING, **changes)), tmp_path / "run", tokenizer)
        losses = [[line["loss"] for line in log(tmp_path / name)] for name in ("run", "whole")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == STEPS

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_memory_and_workers_give_the_same_first_step(self, precision, dataset, tokenizer, tmp_path):
        first = []
        for in_memory in (True, False):
            training = replace(TRAINING, steps=1, in_memory=in_memory, precision=precision)
            folder = tmp_path / str(in_memory)
            train_policy(dataset, replace(POLICY, training=training), folder, tokenizer)
            first.append(log(folder)[0])
        for name in ("action_loss", "depth_loss", "depth_accuracy"):
            assert first[0][name] == pytest.approx(first[1][name], rel=1e-5), name

    def test_a_full_disk_keeps_the_checkpoint_before(self, dataset, tokenizer, tmp_path, monkeypatch):
        train_policy(dataset, POLICY, tmp_path / "whole", tokenizer)
        write, written = _Writer.write_data, []

        def full(writer, *arguments):
            if written:
                (writer.folder / "shard").write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(writer)
            return write(writer, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(_Writer, "write_data", full)
            with pytest.raises(UserError, match="disk is full"):
                train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        assert [saved.step for saved in finished(tmp_path / "run")] == [EVERY]
        assert not [name for name in names(tmp_path / "run") if "tmp" in name or "/." in name]
        train_policy(dataset, POLICY, tmp_path / "run", tokenizer)  # there is space again
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")


class TestRefusedPolicy:
    @pytest.mark.parametrize("finished", [False, True])
    def test_a_run_on_another_dataset(self, finished, dataset, tokenizer, tmp_path):
        if finished:
            train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        else:
            with killed(QDepthVLA, 3):
                train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        before = {name: (tmp_path / "run" / name).read_bytes() for name in names(tmp_path / "run")}
        other = record(tmp_path / "other", actions=2)
        with pytest.raises(UserError, match=r"other settings \(made_from\.dataset is \w+ there and \w+ here\)"):
            train_policy(other, POLICY, tmp_path / "run", tokenizer)
        assert before == {name: (tmp_path / "run" / name).read_bytes() for name in names(tmp_path / "run")}

    def test_a_run_with_another_tokenizer(self, dataset, tokenizer, tmp_path):
        with killed(QDepthVLA, 3):
            train_policy(dataset, POLICY, tmp_path / "run", tokenizer)
        with torch.no_grad():
            tokenizer.codebook.add_(1.0)
        with pytest.raises(UserError, match=r"other settings \(made_from\.depth_tokenizer is"):
            train_policy(dataset, POLICY, tmp_path / "run", tokenizer)

    def test_a_camera_that_the_data_lacks(self, dataset, tokenizer, tmp_path):
        recipe = replace(POLICY, policy=replace(POLICY.policy, cameras=("main", "wrist")))
        with pytest.raises(UserError, match="'wrist'"):
            train_policy(dataset, recipe, tmp_path / "run", tokenizer)
        assert not (tmp_path / "run").exists()

    def test_episodes_that_are_shorter_than_the_horizon(self, tokenizer, tmp_path):
        root = record(tmp_path / "dataset", length=3)
        with pytest.raises(UserError, match=r"horizon = 4 .* longest episode \(3 frames\)"):
            train_policy(root, POLICY, tmp_path / "run", tokenizer)
        assert not (tmp_path / "run").exists()

    def test_what_processes_cannot_share_is_told_first(self, tmp_path):
        """Before anything is read, built or written: there is not even a dataset."""
        three, six = World(size=3), replace(TRAINING, batch_size=6)
        for training, told in (
            (TRAINING, "training.batch_size is 4, which 3 processes cannot share evenly"),
            (replace(six, shard=2), "training.shard is 2, which does not divide the number of processes, 3"),
        ):
            with pytest.raises(UserError, match=told):
                train_policy_in(three, tmp_path / "none", replace(POLICY, training=training), tmp_path / "run")
        assert not list(tmp_path.iterdir())

    def test_a_tracker_that_is_missing_is_told_first(self, dataset, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        recipe = replace(WITHOUT_DEPTH, training=replace(TRAINING, track=("wandb",)))
        with pytest.raises(UserError, match="'wandb', which is not installed"):
            train_policy(dataset, recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_what_one_machine_lacks_is_told_among_the_processes(self, dataset, tmp_path, monkeypatch):
        """Only the first of them prints: what another one finds must come to it."""
        told = []

        @contextmanager
        def joined(config):
            try:
                yield ALONE
            except UserError as error:
                told.append(str(error))
                raise

        monkeypatch.setattr("fathom.training.distributed.joined", joined)
        lost = ["train", str(dataset), "--out", str(tmp_path / "run"), "--tokenizer", str(tmp_path / "lost")]
        assert main(lost) == 2
        (tmp_path / "there").mkdir()
        no_validation = record(tmp_path / "dataset", depth=False)
        info = json.loads((no_validation / "meta" / "info.json").read_text())
        (no_validation / "meta" / "info.json").write_text(json.dumps({**info, "splits": {"train": "0:4"}}))
        examined = ["train", str(no_validation), "--out", str(tmp_path / "run"), "--training.evaluate-every", "2"]
        assert main(examined) == 2
        assert ["lost" in told[0], "split 'validation'" in told[1]] == [True, True]

    def test_depth_that_the_data_lacks(self, tokenizer, tmp_path):
        root = record(tmp_path / "dataset", depth=False)
        with pytest.raises(UserError, match="no depth"):
            train_policy(root, POLICY, tmp_path / "run", tokenizer)
        assert not (tmp_path / "run").exists()

    def test_depth_without_a_tokenizer(self, dataset, tmp_path):
        with pytest.raises(UserError, match="tokenizer"):
            train_policy(dataset, POLICY, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_tokenizer_of_another_size(self, dataset, tokenizer, tmp_path):
        recipe = replace(
            POLICY, policy=replace(POLICY.policy, depth=DepthConfig(grid=8, codes=32, code_dim=12, image_size=32))
        )
        with pytest.raises(UserError, match="codes 16"):
            train_policy(dataset, recipe, tmp_path / "run", tokenizer)
        assert not (tmp_path / "run").exists()


FROM_WORKERS = replace(WITHOUT_DEPTH, training=replace(TRAINING, in_memory=False, workers=1))


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory) -> Path:
    """Trained without workers, which changes nothing."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train_policy(dataset, replace(FROM_WORKERS, training=replace(FROM_WORKERS.training, workers=0)), folder)
    return folder


class TestWorkers:
    def test_one_that_dies_is_told(self, dataset, undisturbed, monkeypatch, tmp_path):
        """Torch raises it in the middle of a step; what was saved is gone on from."""

        def kill_worker():
            (worker,) = active_children()
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # torch is told of it now

        with monkeypatch.context() as patch:
            watch(patch, QDepthVLA, 3, kill_worker)
            with pytest.raises(UserError, match=r"DataLoader worker \(pid.* killed.* lower training.workers"):
                train_policy(dataset, FROM_WORKERS, tmp_path / "run")
        assert finished(tmp_path / "run")[-1].step == EVERY
        train_policy(dataset, FROM_WORKERS, tmp_path / "run")
        assert weights(tmp_path / "run") == weights(undisturbed)

    def test_sigterm_to_all_of_the_job_loses_nothing(self, dataset, undisturbed, monkeypatch, tmp_path):
        """As a cluster sends it: to the workers too."""

        def terminate():
            (worker,) = active_children()
            os.kill(worker.pid, signal.SIGTERM)
            worker.join(0.5)  # it may go on, or die of it
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            watch(patch, QDepthVLA, 2, terminate)
            with pytest.raises(SystemExit) as stopped:
                train_policy(dataset, FROM_WORKERS, tmp_path / "run")
        assert stopped.value.code == 143
        assert finished(tmp_path / "run")[-1].step == 3
        train_policy(dataset, FROM_WORKERS, tmp_path / "run")
        assert weights(tmp_path / "run") == weights(undisturbed)
