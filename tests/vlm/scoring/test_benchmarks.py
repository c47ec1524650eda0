"""Scores against the published rules, each written out again in the test or counted by hand."""

import json
import random
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.vlm.scoring import BENCHMARKS, Score, score_file

DOCUMENTATION = Path(__file__).parents[3] / "docs/howto/score_answers.md"


@pytest.fixture
def write(tmp_path):
    def write(*lines: dict | str) -> Path:
        path = tmp_path / "predictions.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


def bench(category: str, response: str, answer: str) -> dict:
    return {"category": category, "id": "q", "response": response, "answer": answer}


def msmu(kind: str, response: str, answer: str, question: str = "", **mark: float | None) -> dict:
    return {"id": 7, "type": kind, "question": question, "response": response, "answer": answer, **mark}


def region(category: str, response: str, answer: str, question: str = "", kind: str = "quantitative", **mark) -> dict:
    about = {"type": kind, "category": category}
    return {"question": question, "pred": response, "gt": answer, "qa_info": about, **mark}


class TestSpatialBench:
    def test_the_released_script_on_random_answers(self, write) -> None:
        draw = random.Random(0)
        lines = [
            bench(category, draw.choice(["Yes", "No", "yes", "Not sure", "Yes it is"]), draw.choice(["Yes", "No"]))
            for category in ("positional", "existence", "reach", "size")
            for _ in range(40)
        ] + [bench("counting", str(draw.randint(0, 9)), str(draw.randint(1, 9))) for _ in range(31)]
        expected = self.by_the_script(lines)
        score = score_file(write(*lines), "spatialbench", "official")
        assert score.per_type == pytest.approx(expected)
        assert score.overall == pytest.approx(sum(expected.values()) / 5)
        assert score.n == 191

    @staticmethod
    def by_the_script(lines: list[dict]) -> dict[str, float]:
        scores = {}
        for category in ("positional", "existence", "reach", "size"):
            right = [line["answer"] in line["response"] for line in lines if line["category"] == category]
            pairs = [(right[j], right[j + 1]) for j in range(0, len(right), 2)]
            points = {
                "positional": sum(right) / len(right),
                "existence": sum(a and b for a, b in pairs) / len(pairs),
            }
            thirds = sum(a + b + (a and b) for a, b in pairs) / (3 * len(pairs))
            scores[category] = 100 * points.get(category, thirds)
        counted = [(int(line["response"]), int(line["answer"])) for line in lines if line["category"] == "counting"]
        scores["counting"] = 100 - sum(abs(p - g) / g * 100 for p, g in counted) / len(counted)
        return scores

    @pytest.mark.parametrize(
        ("response", "answer", "official", "fixed"),
        [
            ("Not sure", "No", 100, 0),
            ("yes.", "Yes", 0, 100),
            ("No, it is", "No", 100, 100),
            ("The upright one", "right", 100, 0),
            ("RIGHT", "right", 0, 100),
            ("B, as a cup is near", "A", 0, 0),  # an article is no option
            ("A.", "A", 100, 100),
            ("<think>Is it not?</think> Yes", "No", 0, 0),
            ("<think>Is it not?</think> Yes", "Yes", 100, 100),
        ],
    )
    def test_matches_of_part_of_a_word(self, write, response, answer, official, fixed) -> None:
        path = write(bench("positional", response, answer))
        assert score_file(path, "spatialbench", "official").per_type == {"positional": official}
        assert score_file(path, "spatialbench", "fixed").per_type == {"positional": fixed}

    def test_counts_in_sentences(self, write) -> None:
        counted = "<think>2 on the left, 2 on the right?</think> There are three."
        path = write(bench("counting", counted, "4"), bench("counting", "Many", "2"))
        score = score_file(path, "spatialbench", "official")
        assert score.overall == pytest.approx(100 - (25 + 100) / 2)
        assert [failure.reason for failure in score.failures] == ["3 in place of 4", "no number in 'Many'"]

    @pytest.mark.parametrize("answer", ["3", 3, 3.0, "3.0", "three"])
    def test_a_true_count_in_every_spelling(self, write, answer) -> None:
        path = write(bench("counting", "There are 3.", answer))
        assert score_file(path, "spatialbench", "fixed").overall == 100

    def test_a_score_may_be_negative(self, write) -> None:
        assert score_file(write(bench("counting", "9", "3")), "spatialbench", "fixed").overall == pytest.approx(-100)

    def test_a_question_without_its_partner(self, write) -> None:
        lines = [bench("reach", "Yes", "Yes"), bench("positional", "left", "left"), bench("reach", "Yes", "No")]
        assert score_file(write(*lines), "spatialbench", "official").per_type["reach"] == pytest.approx(100 / 3)
        with pytest.raises(UserError, match=r"line 4: the last of 3 questions .* 'reach'"):
            score_file(write(*lines, lines[0]), "spatialbench", "official")


class TestDepthLM:
    def test_the_share_within_a_ratio(self, write) -> None:
        answers = [("2.0", 2.4), ("2", 2.5), ("2.5", 2), ("150 cm", 1.3), ("I cannot tell", 1), ("0", 1), ("3.1 m", 3)]
        path = write(*({"id": n, "response": r, "depth": d} for n, (r, d) in enumerate(answers)))
        score = score_file(path, "depthlm", "official")
        right = [True, False, False, True, False, False, True]  # 1.25 itself is out
        assert score.as_json() == {"per_type": {"delta1": 100 * 3 / 7}, "overall": 100 * 3 / 7, "n": 7}
        assert [failure.line for failure in score.failures] == [n for n, ok in enumerate(right, 1) if not ok]

    def test_a_negative_answer(self, write) -> None:
        path = write({"id": 0, "response": "-2 m", "depth": 2})
        assert score_file(path, "depthlm", "official").overall == 100
        assert score_file(path, "depthlm", "fixed").overall == 0

    @pytest.mark.parametrize(
        "response",
        [
            "<think> 2 chairs; the wall is at 5 m </think> <answer> 3.2 </answer>",
            "The camera is at 1.5 m, the point is 3.2 m away",
            3.2,
        ],
    )
    def test_which_number_is_the_answer(self, write, response) -> None:
        assert score_file(write({"id": 0, "response": response, "depth": 3.2}), "depthlm", "fixed").overall == 100


class TestMSMU:
    NUMERIC = ("scale_estimation", "absolute_distance", "count", "position", "refer_obj_estimation")

    @pytest.mark.parametrize(
        ("response", "answer", "right"),
        [
            ("1.2 m", "1 m", True),
            ("125 cm", "1 m", False),  # 1.25 itself is out,
            *((f"{5 * n} ft", f"{4 * n} ft", False) for n in range(1, 8)),  # in every unit
            ("<think>The door is 3 m high.</think> 1.1 m", "1 m", True),
            ("0.8 m", "1 m", False),
            ("3 ft 2 in", "The table is 0.97 m high", True),
            ("I cannot tell", "1 m", False),
            ("1.4 m and 0.2 m", "1.0 m and 0.5 m", False),
            ("1.0 m and 0.5 m", "[1.0, 0.5]", True),
            ("1 m x 1 m x 1.4 m", "[1, 1, 1]", True),  # the mean of 1, 1 and 1.4
            ("1 m x 1 m x 1.8 m", "[1, 1, 1]", False),
            ("1 m x 1 m", "[1, 1, 1]", False),
            ("1 m x 1 m x 1 m", "1 m x 1 m", True),
        ],
    )
    @pytest.mark.parametrize("mode", ["official", "fixed"])
    def test_lengths(self, write, response, answer, right, mode) -> None:
        path = write(msmu("scale_estimation", response, answer))
        assert score_file(path, "msmu", mode).per_type == {"scale_estimation": 100.0 * right}

    @pytest.mark.parametrize(("response", "right"), [("[0.4, 0.7]", True), ("[0.5, 0.7]", False), ("0.3", False)])
    def test_positions(self, write, response, right) -> None:
        score = score_file(write(msmu("position", response, "(0.3, 0.65)")), "msmu", "official")
        assert score.per_type == {"position": 100.0 * right}  # means of |Δ|: 0.075, 0.125

    @pytest.mark.parametrize(("response", "answer"), [("0.4", "0.3"), ("1.3", "1.2"), ("[0.4, 0.6]", "[0.3, 0.5]")])
    def test_a_tenth_apart_is_near_in_every_digit(self, write, response, answer) -> None:
        assert score_file(write(msmu("position", response, answer)), "msmu", "official").per_type == {"position": 100}
        further = msmu("position", response, answer.replace("3", "299", 1).replace("1.2", "1.199"))
        assert score_file(write(further), "msmu", "official").per_type == {"position": 0}

    def test_overall_is_the_mean_of_the_eight_types(self, write) -> None:
        numeric = [msmu(kind, "2", "2") for kind in self.NUMERIC] + [msmu("count", "5", "2")]
        marked = [msmu(kind, "yes", "yes", mark=mark) for kind, mark in
                  [("relative_position", 1), ("scale_compare", 0.5), ("zero", 0.6), ("zero", 0)]]  # fmt: skip
        score = score_file(write(*numeric, *marked), "msmu", "official")
        expected = dict.fromkeys(self.NUMERIC, 100.0) | {
            "count": 50.0, "relative_position": 100.0, "scale_compare": 0.0, "zero": 50.0,
        }  # fmt: skip
        assert score.per_type == expected
        assert score.overall == pytest.approx(sum(expected.values()) / 8)
        assert score.n == 10

    def test_types_that_are_not_there(self, write) -> None:
        path = write(msmu("count", "2", "2"))
        assert score_file(path, "msmu", "official").overall == pytest.approx(100 / 8)
        assert score_file(path, "msmu", "fixed").overall == 100

    def test_a_judged_type_without_marks(self, write) -> None:
        question = "Is the bed left of the door?"
        path = write(msmu("count", "2", "2"), msmu("relative_position", "Yes, it is", "Indeed", question))
        official, fixed = (score_file(path, "msmu", mode) for mode in ("official", "fixed"))
        assert official.per_type == {"count": 100, "relative_position": None}
        assert official.overall is None
        assert fixed.per_type == {"count": 100, "relative_position": 100}

    def test_a_type_of_which_one_mark_is_missing(self, write) -> None:
        path = write(msmu("zero", "no", "no", mark=1), msmu("zero", "no", "no", mark=None))
        assert score_file(path, "msmu", "official").per_type == {"zero": None}
        assert score_file(path, "msmu", "fixed").per_type == {"zero": 100}

    def test_a_mark_decides_against_the_rules(self, write) -> None:
        path = write(msmu("zero", "yes", "no", mark=1))
        assert score_file(path, "msmu", "fixed").overall == 100

    @pytest.mark.parametrize(
        ("kind", "response", "answer", "official", "fixed"),
        [
            ("count", "0", "0", 0, 100),
            ("count", "There are none", "0", 0, 100),
            ("absolute_distance", "-2 m", "2 m", 100, 0),
        ],
    )
    def test_errors_of_the_released_script(self, write, kind, response, answer, official, fixed) -> None:
        path = write(msmu(kind, response, answer))
        assert score_file(path, "msmu", "official").per_type == {kind: official}
        assert score_file(path, "msmu", "fixed").per_type == {kind: fixed}

    def test_the_question_s_own_lengths_are_no_answer(self, write) -> None:
        question = "The bed is 0.81 m high, how high is the table?"
        path = write(msmu("refer_obj_estimation", "The bed is 0.81 m, so the table is 1.1 m", "1.02 m", question))
        assert score_file(path, "msmu", "official").per_type == {"refer_obj_estimation": 100}

    def test_of_two_lengths_that_are_asked_one_may_be_the_question_s(self, write) -> None:
        question = "The bed is 0.81 m high, how high are the table and the stand?"
        path = write(msmu("refer_obj_estimation", "0.81 m and 0.7 m", "0.95 m and 0.70 m", question))
        assert score_file(path, "msmu", "official").per_type == {"refer_obj_estimation": 100}  # 1.17 and 1


class TestSpatialRGPT:
    @pytest.mark.parametrize(
        ("response", "right"),
        [
            ("2.5 m", True),
            ("150 cm", True),
            ("2.6 m", False),
            ("1.4 m", False),
            ("far", False),
            ("7 feet", True),
            ("8 ft 2.42 in", True),
            ("1500 mm", True),
        ],  # 2.5 m and a bit less; 1.5 m itself
    )
    def test_distances_within_a_quarter(self, write, response, right) -> None:
        line = region("width_data", f"Region [0] is {response} wide.", "Region [0] is 2.0 meters wide.")
        assert score_file(write(line), "spatialrgpt", "official").per_type == {"width": 100.0 * right}

    @pytest.mark.parametrize("feet", range(4, 40, 4))
    def test_both_ends_are_within_in_every_unit(self, write, feet) -> None:
        for response in (f"{3 * feet // 4} ft", f"{5 * feet // 4} ft"):
            line = region("distance_data", response, f"{feet} ft")
            assert score_file(write(line), "spatialrgpt", "official").overall == 100

    @pytest.mark.parametrize(
        ("response", "right"),
        [("11 o'clock", True), ("1 o'clock", True), ("twelve o'clock", True), ("2 o'clock", False), ("Ahead", False)],
    )
    def test_directions_within_an_hour(self, write, response, right) -> None:
        line = region("direction", f"Region [1] is at {response}", "around the 12 o'clock direction")
        assert score_file(write(line), "spatialrgpt", "fixed").per_type == {"direction": 100.0 * right}

    def test_judged_types(self, write) -> None:
        question = "Is Region [0] taller than Region [1]?"
        line = region("tall_predicate", "Yes", "Indeed, it is", question, kind="qualitative")
        assert score_file(write(line), "spatialrgpt", "official").as_json()["overall"] is None
        assert score_file(write(line), "spatialrgpt", "fixed").per_type == {"tall/short": 100}
        assert score_file(write(line | {"mark": 0.2}), "spatialrgpt", "official").overall == 100
        assert score_file(write(line | {"mark": 0.2}), "spatialrgpt", "fixed").overall == 0
        assert score_file(write(line | {"mark": 0}), "spatialrgpt", "official").overall == 0

    def test_a_question_may_have_a_name(self, write) -> None:
        line = region("width_data", "2 m", "1 m")
        score = score_file(write(line | {"question_id": "q7"}, line), "spatialrgpt", "fixed")
        assert [failure.id for failure in score.failures] == ["q7", "2"]

    def test_an_unknown_category(self, write) -> None:
        with pytest.raises(UserError, match=r"line 1: 'category' is \"depth_data\", expected one of distance_data"):
            score_file(write(region("depth_data", "1", "1")), "spatialrgpt", "official")


GOOD = {
    "spatialbench": bench("positional", "left", "left"),
    "depthlm": {"id": 0, "response": "1", "depth": 1.0},
    "msmu": msmu("count", "1", "1"),
    "spatialrgpt": region("width_data", "1 m", "1 m"),
}


@pytest.mark.parametrize("benchmark", GOOD)
class TestBadInput:
    def refused(self, path: Path, benchmark: str) -> str:
        with pytest.raises(UserError) as refusal:
            score_file(path, benchmark, "fixed")
        assert str(path) in str(refusal.value)
        return str(refusal.value)

    def test_a_missing_field(self, write, benchmark) -> None:
        for name in GOOD[benchmark]:
            line = {key: value for key, value in GOOD[benchmark].items() if key != name}
            assert f"line 2: has no field '{name}'" in self.refused(write(GOOD[benchmark], line), benchmark)

    def test_a_field_of_another_type(self, write, benchmark) -> None:
        for name in GOOD[benchmark]:
            assert f"line 1: '{name}' is true" in self.refused(write(GOOD[benchmark] | {name: True}), benchmark)

    def test_no_json(self, write, benchmark) -> None:
        assert "line 2: is not JSON" in self.refused(write(GOOD[benchmark], "{'a': 1}"), benchmark)

    def test_no_object(self, write, benchmark) -> None:
        assert "line 1: is JSON, but no object" in self.refused(write("[1]"), benchmark)

    def test_nothing(self, tmp_path, write, benchmark) -> None:
        assert "is empty" in self.refused(write(), benchmark)
        assert "there is no such file" in self.refused(tmp_path / "none.jsonl", benchmark)

    def test_no_text(self, tmp_path, benchmark) -> None:
        (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
        assert "no text in UTF-8" in self.refused(tmp_path / "bytes.jsonl", benchmark)


@pytest.mark.parametrize("depth", [0, -1, "1.0", None, float("nan")])
def test_a_depth_that_is_none(write, depth) -> None:
    with pytest.raises(UserError, match=r"line 1: 'depth' is .*, expected a number above 0"):
        score_file(write(GOOD["depthlm"] | {"depth": depth}), "depthlm", "official")


@pytest.mark.parametrize("mark", [2, -0.1, "1"])
def test_a_mark_that_is_none(write, mark) -> None:
    with pytest.raises(UserError, match=r"line 1: 'mark' is .*, expected a number from 0 to 1"):
        score_file(write(msmu("zero", "no", "no", mark=mark)), "msmu", "official")


@pytest.mark.parametrize("answer", ["0", "several", "2.5"])
def test_a_count_that_is_none(write, answer) -> None:
    with pytest.raises(UserError, match="expected a count of at least 1"):
        score_file(write(bench("counting", "1", answer)), "spatialbench", "official")


def test_every_official_error_is_documented() -> None:
    text = " ".join(DOCUMENTATION.read_text().split())
    for benchmark in BENCHMARKS.values():
        assert benchmark.OFFICIAL_ERRORS
        for error in benchmark.OFFICIAL_ERRORS:
            assert error in text


def test_a_score_names_what_lost_points(write) -> None:
    score: Score = score_file(write(msmu("count", "1", "1"), msmu("count", "none that I see", "3")), "msmu", "fixed")
    (failure,) = score.failures
    assert (failure.line, failure.id, failure.type) == (2, "7", "count")
    assert failure.reason == "0 in place of 3"
