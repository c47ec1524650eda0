"""``fathom vlm score`` and ``fathom vlm eval``: what they print, and what they refuse."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fathom.cli.vlm_score import VlmEval, VlmScore
from fathom.errors import UserError

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


class Parrot:
    def answer(self, image: Image.Image, question: str, depth: Path | None = None) -> str:
        return "3"


@pytest.fixture
def counting(tmp_path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    question = {"image": "a.png", "question": "How many cups?", "answer": "4"}
    (tmp_path / "counting.json").write_text(json.dumps([question]))
    return tmp_path


def test_eval_asks_scores_and_keeps_the_answers(counting, monkeypatch, capsys) -> None:
    monkeypatch.setattr("fathom.vlm.saving.load_depth_vlm", lambda source, **_: Parrot())
    out = counting / "run"
    VlmEval("model", counting, "spatialbench", out, "official", json=True).run()
    assert json.loads(capsys.readouterr().out) == {"per_type": {"counting": 75.0}, "overall": 75.0, "n": 1}
    assert json.loads((out / "predictions.jsonl").read_text())["response"] == "3"
    with pytest.raises(UserError, match="another evaluation was begun here"):
        VlmEval("another", counting, "spatialbench", out).run()
