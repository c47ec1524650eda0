"""``fathom vlm score`` and ``fathom vlm eval``: what they print, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.cli.vlm_score import VlmEval, VlmScore
from fathom.depth.depth_map import DepthVideo
from fathom.errors import UserError
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.small import SmallSize, small_depth_vlm

LINES = [
    {"category": "reach", "id": 0, "response": "Yes", "answer": "Yes"},
    {"category": "reach", "id": 1, "response": "Yes", "answer": "No"},
    {"category": "counting", "id": 2, "response": "two", "answer": "4"},
]


@pytest.fixture
def predictions(tmp_path) -> Path:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_json_is_one_object_and_nothing_else(predictions, capsys) -> None:
    VlmScore(predictions, "spatialbench", "official", json=True).run()
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "per_type": {"counting": 50.0, "reach": pytest.approx(100 / 3)},
        "overall": pytest.approx((50 + 100 / 3) / 2),
        "n": 3,
    }


def test_a_missing_judge_is_null(tmp_path, capsys) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"id": 0, "type": "zero", "question": "?", "response": "no", "answer": "no"}))
    VlmScore(path, "msmu", "official", json=True).run()
    assert capsys.readouterr().out == '{"per_type": {"zero": null}, "overall": null, "n": 1}\n'


def test_the_table_has_intervals_and_failures(predictions, capsys) -> None:
    VlmScore(predictions, "spatialbench", "official", failures=1).run()
    said = capsys.readouterr().out
    assert "33.3" in said
    assert "line 2, reach 1: 'Yes' in place of 'No'" in said
    assert "and 1 more that lost points" in said


def test_intervals_are_wilson_s_where_trials_are_right_or_wrong(tmp_path, capsys) -> None:
    path = tmp_path / "predictions.jsonl"
    answers = ["left"] * 8 + ["right"] * 2
    lines = [{"category": "positional", "id": 0, "response": said, "answer": "left"} for said in answers]
    path.write_text("\n".join(map(json.dumps, lines)))
    VlmScore(path, "spatialbench", "official").run()
    assert "49.0 – 94.3" in capsys.readouterr().out  # Wilson (1927) for 8 of 10


@pytest.fixture
def counting(tmp_path) -> Path:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    question = {"image": "a.png", "question": "How many cups?", "answer": "4"}
    (tmp_path / "counting.json").write_text(json.dumps([question]))
    return tmp_path


def saved(folder: Path, **settings) -> str:
    """A small model that answers whatever its random weights say."""
    size = SmallSize(width=16, layers=1, vision_width=16, vision_layers=1, patch=4, image=16)
    small_depth_vlm(DepthVLMConfig(**settings), ["How many cups?", "4"], size=size).save(folder)
    return str(folder)


class TwoMetres:
    kind = "metric"

    def estimate(self, frames, *, episode=None) -> DepthVideo:
        values = np.full(frames.shape[:3], 2, np.float32)
        return DepthVideo(values, self.kind, values > 0)


def test_eval_of_a_model_that_reads_depth(counting, monkeypatch, capsys) -> None:
    model, out = saved(counting / "model", fusion="positional"), counting / "run"
    asking = {"model": model, "path": counting, "benchmark": "spatialbench", "max_new_tokens": 3, "json": True}
    with pytest.raises(UserError, match=r"reads metric depth .* 1 of the 1 questions come without: .*--estimator"):
        VlmEval(out=out, **asking).run()
    assert not out.exists()
    monkeypatch.setattr("fathom.vlm.ask.open_estimator", lambda *_, **__: TwoMetres())
    VlmEval(out=out, estimator="transformers", weights="w", **asking).run()
    told = capsys.readouterr()
    assert json.loads(told.out)["n"] == 1 and "lacks positional.json, existence.json, reach.json" in told.err
    said = json.loads((out / "predictions.jsonl").read_text())["response"]
    assert len(said.split()) <= 3
    (Path(model) / "config.json").unlink()
    with pytest.raises(UserError, match="max_new_tokens is 3 there and 4 here"):
        VlmEval(out=out, estimator="transformers", weights="w", **asking | {"max_new_tokens": 4}).run()
    (out / "settings.json").write_text("{damaged")
    with pytest.raises(UserError, match=r"settings.json"):
        VlmEval(out=out, estimator="transformers", weights="w", **asking).run()


def test_what_cannot_be_scored_is_refused_before_the_model_is_read(counting) -> None:
    entries = json.loads((counting / "counting.json").read_text())
    (counting / "counting.json").write_text(json.dumps([*entries, entries[0] | {"answer": "many"}]))
    with pytest.raises(UserError, match=r"question 2: 'answer' is \"many\", expected a count"):
        VlmEval("no/such/model", counting, "spatialbench", counting / "run").run()
