"""Questions and answers, against the boxes that were drawn and against the benchmark's own scorer."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.vlm.questions.boxes import ORDERLY, Box, draw

from fathom.vlm.questions import KINDS, Question, View, look, make_questions
from fathom.vlm.questions.wording import spoken
from fathom.vlm.scoring import score_file
from fathom.vlm.scoring.answers import lengths, numbers

VIEW = View(47.0, tilt=30.0)
MUG, PLATE, *BOWLS = ORDERLY


def asked(boxes: list[Box], seed: int = 0, view: View = VIEW) -> list[Question]:
    """All questions about a picture of these boxes."""
    return make_questions(look(*draw(boxes, view), view), 1000, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def many() -> list[Question]:
    """All questions about the orderly scene, in all wordings: each is drawn at least once in twelve times."""
    scene = look(*draw(ORDERLY, VIEW), VIEW)
    return [question for seed in range(150) for question in make_questions(scene, 1000, np.random.default_rng(seed))]


@pytest.fixture(scope="module")
def of_kind(many) -> dict[str, list[Question]]:
    return {kind: [question for question in many if question.kind == kind] for kind in KINDS}


class TestAnswers:
    def test_distances_from_the_camera(self, of_kind) -> None:
        true = {"red mug": MUG, "plate": PLATE}
        for question in of_kind["camera_distance"]:
            (name,) = question.objects
            assert lengths(question.answer) == pytest.approx([np.linalg.norm(true[name].from_camera)], rel=0.05)
            assert question.type == "absolute_distance" and name in question.question

    def test_distances_between_objects(self, of_kind) -> None:
        questions = of_kind["object_distance"]
        assert len({question.question for question in questions}) == 2 * 3  # orders and wordings
        for question in questions:
            assert lengths(question.answer) == pytest.approx([np.linalg.norm(MUG.middle - PLATE.middle)], rel=0.1)

    def test_sizes(self, of_kind) -> None:
        sizes = defaultdict(set)
        for question in of_kind["size"]:
            across = "wide" in question.question or "width" in question.question or "side" in question.question
            sizes[question.objects[0], "x" if across else "z"].add(lengths(question.answer)[0])
        true = {("red mug", "x"): 0.2, ("red mug", "z"): 0.3, ("plate", "x"): 0.5, ("plate", "z"): 0.2}
        assert {key: pytest.approx([value], abs=0.025) for key, value in true.items()} == {
            key: list(values) for key, values in sizes.items()
        }

    def test_no_height_where_the_tilt_is_not_known(self) -> None:
        scene = look(*draw(ORDERLY, VIEW), View(47.0))
        questions = make_questions(scene, 1000, np.random.default_rng(0))
        assert Counter(question.kind for question in questions)["size"] == 2

    def test_counts(self, of_kind) -> None:
        true = {("red mug",): 1, ("plate",): 1, ("bowl",): 2, (): 4}
        questions = of_kind["count"]
        assert {question.objects for question in questions} == set(true)
        for question in questions:
            assert numbers(question.answer) == [true[question.objects]] == list(question.values)

    def test_nearer_and_farther(self, of_kind) -> None:
        questions = of_kind["nearer"]
        assert len({question.question for question in questions}) == 2 * 4 + 2  # two do not depend on the order
        for question in questions:
            if question.answer.startswith(("Yes", "No")):
                yes = question.question.startswith("Is the red mug nearer")
                assert question.answer.startswith("Yes" if yes else "No")
            else:
                expected = "plate" if "farther" in question.question else "red mug"
                assert question.answer.removesuffix(" is nearer.").removesuffix(" is farther.").rstrip(".") == (
                    f"The {expected}"
                )

    def test_sides(self, of_kind) -> None:
        """The plate is to the right of the mug, behind it and, in the picture, above it."""
        true = {"red mug": {"left", "below", "front"}, "plate": {"right", "above", "behind"}}
        words = set.union(*true.values())
        questions = of_kind["relative_position"]
        for question in questions:
            said = words & set(question.answer.replace(",", " ").replace(".", " ").split())
            named = words & set(question.question.replace(",", " ").replace("?", " ").split())
            assert said and said <= true[question.objects[0]]
            if question.answer.startswith("Yes"):
                assert named == said
            elif question.answer.startswith("No"):
                assert len(named) == 1 and not named & said
            elif not named:
                assert said == true[question.objects[0]]
        answers = Counter(question.answer.split()[0] for question in questions)
        assert answers["Yes,"] > 10 and answers["No,"] > 10
        right, down, away = next(q.values for q in questions if q.objects == ("plate", "red mug"))
        assert right > 0 > down and away > 0

    @given(st.floats(0.001, 99.0))
    def test_lengths_have_three_digits(self, metres: float) -> None:
        assert lengths(spoken(metres)) == pytest.approx([metres], rel=0.0051)

    @pytest.mark.parametrize(
        ("metres", "text"),
        [(0.6337, "63.4 cm"), (0.05, "5 cm"), (0.9996, "1 m"), (1.234, "1.23 m"), (12.34, "12.3 m")],
    )
    def test_units(self, metres: float, text: str) -> None:
        assert spoken(metres) == text


class TestSkipped:
    def kinds(self, *boxes: Box) -> set[str]:
        return {question.kind for question in asked(list(boxes))}

    def test_distances_that_hardly_differ(self) -> None:
        one, near = Box("mug", (-0.4, 2.0, 0.0), (-0.2, 2.2, 0.3)), Box("can", (0.2, 2.1, 0.0), (0.4, 2.3, 0.3))
        assert "nearer" not in self.kinds(one, near)
        assert "nearer" in self.kinds(one, Box("can", (0.2, 2.5, 0.0), (0.4, 2.7, 0.3)))

    def test_sides_of_what_overlaps(self) -> None:
        tray, cup = Box("tray", (-0.6, 2.5, 0.0), (0.6, 3.1, 0.05)), Box("cup", (-0.1, 2.7, 0.05), (0.1, 2.9, 0.2))
        assert {"relative_position", "object_distance"}.isdisjoint(self.kinds(tray, cup))

    def test_an_empty_scene(self) -> None:
        assert asked([]) == []


class TestDrawing:
    def test_the_seed_decides(self) -> None:
        assert asked(ORDERLY, 3) == asked(ORDERLY, 3) != asked(ORDERLY, 4)

    def test_every_kind_has_its_turn_before_one_comes_again(self) -> None:
        scene = look(*draw(ORDERLY, VIEW), VIEW)
        for seed in range(10):
            questions = make_questions(scene, len(KINDS), np.random.default_rng(seed))
            assert sorted(question.kind for question in questions) == sorted(KINDS)
            assert len(make_questions(scene, 4, np.random.default_rng(seed))) == 4

    def test_nothing_is_asked_twice(self) -> None:
        questions = [question.question for question in asked(ORDERLY)]
        assert len(set(questions)) == len(questions)


class TestScoring:
    """The scorer's fixed mode is a second opinion on every sentence."""

    def scored(self, path: Path, pairs: list[tuple[Question, str]]) -> dict[str, float | None]:
        lines = (
            {"id": n, "type": q.type, "question": q.question, "response": response, "answer": q.answer}
            for n, (q, response) in enumerate(pairs)
        )
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return score_file(path, "msmu", "fixed").per_type

    def test_true_answers_are_right(self, many, tmp_path) -> None:
        types = {kind_type for kind_type, _ in KINDS.values()}
        assert self.scored(tmp_path / "answers.jsonl", [(q, q.answer) for q in many]) == dict.fromkeys(types, 100.0)

    def test_numbers_alone_are_right_within_the_tolerance(self, many, tmp_path) -> None:
        numeric = [question for question in many if question.type != "relative_position"]
        for factor, score in ((1.0, 100.0), (1.2, 100.0), (1.3, 0.0)):
            pairs = [(q, f"{factor * q.values[0]:.6f}" + " m" * (q.type != "count")) for q in numeric]
            assert set(self.scored(tmp_path / "answers.jsonl", pairs).values()) == {score}

    def test_the_opposite_is_wrong(self, many, tmp_path) -> None:
        judged = [question for question in many if question.type == "relative_position"]
        pairs = [(question, self.opposite(question)) for question in judged]
        assert self.scored(tmp_path / "answers.jsonl", pairs) == {"relative_position": 0.0}

    @staticmethod
    def opposite(question: Question) -> str:
        swapped = ["left", "right"], ["above", "below"], ["in front of", "behind"], ["Yes", "No"]
        pairs = [*swapped, list(question.objects)] if question.kind == "nearer" else swapped
        text = question.answer
        for one, other in pairs:
            text = text.replace(one, "\0").replace(other, one).replace("\0", other)
        return text
