"""Collected datasets follow from their plan alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.data.features import ACTION, IMAGES, MAIN_DEPTH, STATE, DatasetInfo
from fathom.errors import UserError
from fathom.simulation.collect import MAIN_SEGMENTATION, Quota, collect
from fathom.simulation.demonstrations import Demonstration, Style, record
from fathom.simulation.journal import Journal
from fathom.simulation.noise import ExpertNoise
from fathom.workers import Answer, Workers

TASKS = ["handle-press", "coffee-button"]
SMALL: dict[str, Any] = {"style": Style(64), "segmentation": True, "processes": 1}


def digest(root: Path) -> dict[str, str]:
    """The content of every file of a dataset."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collect") / "whole"
    collect("metaworld", TASKS, 3, root, validation_share=0.3, **SMALL)
    return root


def test_a_dataset_has_its_features_its_splits_and_its_yield(dataset: Path) -> None:
    info = DatasetInfo.load(dataset)
    assert info.total_episodes == 6 and info.total_tasks == 2 and info.fps == 40
    assert info.splits == {"train": "0:4", "validation": "4:6"}
    assert {f"{IMAGES}main", MAIN_DEPTH, MAIN_SEGMENTATION, STATE, ACTION} <= set(info.features)
    names = info.features[MAIN_SEGMENTATION].label_names
    assert list(names.values())[:6] == ["background", "floor", "table", "wall", "arm", "gripper"]
    assert len(set(names.values())) == len(names) > 7  # both tasks' objects
    written = json.loads((dataset / "meta" / "collection.json").read_text())["yield"]
    assert sum(counts["frames"] for counts in written.values()) == info.total_frames
    assert all(counts["kept"] == 3 <= counts["tried"] for counts in written.values())


@pytest.mark.slow
def test_an_interruption_and_more_processes_change_no_byte(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "resumed"
    append, noted = Journal.append, []

    def interrupted(self: Journal, entry: dict[str, Any]) -> None:
        append(self, entry)
        noted.append(entry["number"])
        if len(noted) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", interrupted)
    arguments = SMALL | {"processes": 2}
    with pytest.raises(KeyboardInterrupt):
        collect("metaworld", TASKS, 3, root, validation_share=0.3, **arguments)
    assert not root.exists()
    with pytest.raises(UserError, match="other arguments"):
        collect("metaworld", TASKS, 4, root, validation_share=0.3, **arguments)
    with (tmp_path / "resumed.staging" / "attempts.jsonl").open("a") as file:
        file.write('{"number": 5')  # cut in the middle of a line
    collect("metaworld", TASKS, 3, root, validation_share=0.3, **arguments)
    assert digest(root) == digest(dataset)
    assert not set(noted[:2]) & set(noted[2:]), "what was there is not collected again"


class Crashing(Workers):
    """A simulator crashes over the first recordings."""

    crashes = 1

    def receive(self) -> tuple[int, Answer]:
        worker, answer = super().receive()
        if isinstance(answer.value, Demonstration) and self.crashes:
            self.crashes -= 1
            return worker, Answer(answer.key, None, "the simulator ended unexpectedly")
        return worker, answer


@pytest.mark.slow
def test_a_crashed_simulator_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = {"style": Style(32), "processes": 1, "validation_share": 0.5}
    collect("metaworld", TASKS[:1], 2, tmp_path / "calm", **one)
    monkeypatch.setattr("fathom.simulation.collect.Workers", Crashing)
    collect("metaworld", TASKS[:1], 2, tmp_path / "crashed", **one)
    assert digest(tmp_path / "crashed") == digest(tmp_path / "calm")
    monkeypatch.setattr(Crashing, "crashes", 2)
    with pytest.raises(RuntimeError, match=r"failed twice:\nthe simulator ended unexpectedly"):
        collect("metaworld", TASKS[:1], 2, tmp_path / "broken", **one)


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    journal = Journal(path, {"tasks": TASKS})
    journal.append({"number": 0, "frames": 9})
    path.write_text(path.read_text() + "{garbled\n" + json.dumps({"number": 1, "frames": 8}) + "\n")
    with pytest.raises(UserError, match=r"attempts\.jsonl, line 3: not what was written there"):
        Journal(path, {"tasks": TASKS})


def test_something_in_the_way_is_told(dataset: Path) -> None:
    with pytest.raises(UserError, match="already here"):
        collect("metaworld", TASKS, 3, dataset, **SMALL)
    with pytest.raises(UserError, match="no task called"):
        collect("metaworld", ["fly"], 3, dataset.with_name("x"), **SMALL)
    with pytest.raises(UserError, match="at least two episodes"):
        collect("metaworld", TASKS, 1, dataset.with_name("x"), **SMALL)


def test_labels_are_the_clean_actions_and_the_end_is_held() -> None:
    quiet, loud = (
        record("metaworld", "handle-press", 0, Style(64, noise=noise))
        for noise in (ExpertNoise(share=0.0), ExpertNoise(std=0.5, share=1.0))
    )
    assert quiet is not None and loud is not None
    shorter = record("metaworld", "handle-press", 0, Style(64, noise=ExpertNoise(share=0.0), hold=0))
    assert shorter is not None and len(quiet.actions) == len(shorter.actions) + 8
    np.testing.assert_array_equal(quiet.state[0], loud.state[0])
    np.testing.assert_array_equal(quiet.actions[0], loud.actions[0])  # same look, same wish
    assert not np.allclose(quiet.state[5], loud.state[5])  # but another motion
    assert np.abs(loud.actions).max() <= 1


@given(st.lists(st.booleans(), min_size=60, max_size=60), st.integers(1, 8), st.integers(1, 5), st.randoms())
def test_what_is_kept_does_not_depend_on_timing(solved: list[bool], wanted: int, workers: int, random: Any) -> None:
    wanted = min(wanted, sum(solved[: wanted + 20]))
    quota = Quota("reach", 0, wanted, 0)
    under_way: list[int] = []
    kept = []
    while True:
        while len(under_way) < workers and (number := quota.next_number()) is not None:
            under_way.append(number)
        if not under_way:
            break
        number = under_way.pop(random.randrange(len(under_way)))
        quota.take(int(solved[number]))
        kept += [number] * solved[number]
    assert sorted(kept) == [number for number, success in enumerate(solved) if success][:wanted]


def test_an_expert_that_keeps_failing_is_told() -> None:
    quota = Quota("reach", 0, 1, 0)
    with pytest.raises(UserError, match="reach solved only 0 of 25 layouts"):
        while quota.next_number() is not None:
            quota.take(0)
