"""Models that answered the same questions, side by side."""

import json

import pytest

from fathom.evaluation.spatial import Answers, compare


def answers(folder, arm, right, seed=0, share=1.0):
    """Ten scenes with a question of each of two types; ``right`` says of how many scenes each type is right."""
    lines = []
    for scene in range(10):
        lines.append(_line(scene, "absolute_distance", "1 m", "1 m" if scene < right[0] else "5 m"))
        lines.append(_line(scene, "count", "2", "2" if scene < right[1] else "9"))
    path = folder / f"{arm}-{seed}-{share}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Answers.read(path, arm, seed, share)


def _line(scene, name, answer, response):
    return {
        "id": f"{scene:06d}-0000-{name}",
        "scene": str(scene),
        "type": name,
        "question": "?",
        "answer": answer,
        "response": response,
    }


def test_overall_is_the_mean_of_types_and_the_gain_is_relative(tmp_path):
    none, concat = compare([answers(tmp_path, "none", (2, 4)), answers(tmp_path, "concat", (5, 4))])
    assert none.gain is None and none.overall.value == pytest.approx(30)
    assert {name: rate.value for name, rate in none.per_type.items()} == {"absolute_distance": 20, "count": 40}
    assert concat.overall.value == pytest.approx(45) and concat.gain.value == pytest.approx(0.5)
    assert none.overall.low < 30 < none.overall.high and concat.gain.low < 0.5 < concat.gain.high


def test_frames_of_a_scene_are_drawn_together(tmp_path):
    path = tmp_path / "said.jsonl"
    lines = [_line(frame // 2, "count", "2", "2") | {"id": f"000000-{frame:04d}-0"} for frame in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Answers.read(path, "none", 0).scenes == {"count": ["0", "0", "1", "1"]}


def test_what_every_arm_misses_does_not_widen_the_gain(tmp_path):
    same = compare([answers(tmp_path, "none", (5, 5)), answers(tmp_path, "concat", (5, 5))])[1]
    assert same.gain == (0, 0, 0) and same.overall.low < 50 < same.overall.high


def test_seeds_are_taken_together_and_shares_apart(tmp_path):
    found = compare(
        [
            answers(tmp_path, "none", (2, 2)),
            answers(tmp_path, "none", (4, 4), seed=1),
            answers(tmp_path, "rgbd", (6, 6)),
            answers(tmp_path, "none", (1, 1), share=0.5),
        ]
    )
    assert [(one.arm, one.share, one.seeds) for one in found] == [
        ("none", 1.0, (0, 1)),
        ("rgbd", 1.0, (0,)),
        ("none", 0.5, (0,)),
    ]
    assert found[0].overall.value == pytest.approx(30) and found[1].gain.value == pytest.approx(1.0)


def test_a_baseline_that_knows_nothing_has_no_gain_above_it(tmp_path):
    assert compare([answers(tmp_path, "none", (0, 0)), answers(tmp_path, "concat", (5, 5))])[1].gain is None


def test_an_answer_may_contain_other_line_ends(tmp_path):
    path = tmp_path / "said.jsonl"
    lines = [_line(scene, "count", "2", "2\u2028of them") for scene in range(2)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert len(Answers.read(path, "none", 0).said) == 2
