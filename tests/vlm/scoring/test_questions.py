"""The benchmarks' own files, asked with a model that says what the test says."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from fathom.errors import UserError
from fathom.vlm.marker import FOCAL_LENGTH
from fathom.vlm.scoring import score_file
from fathom.vlm.scoring.answering import answer_questions
from fathom.vlm.scoring.questions import read_questions

GREY = (120, 130, 140)
RED = (255, 0, 0)


class Parrot:
    """Answers with what it is given, in turn, and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Image.Image, str, Path | None]] = []

    def answer(self, image: Image.Image, question: str, depth: Path | None = None, *, max_new_tokens: int = 0) -> str:
        if not self.answers:
            raise KeyboardInterrupt
        self.asked.append((image, question, depth))
        return self.answers.pop(0)


def picture(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, GREY).save(path)
    return path


@pytest.fixture
def msmu(tmp_path) -> Path:
    rows = [("absolute_distance", "How far is it?", "It is 1.2 m away."), ("count", "How many chairs?", "2.")]
    content = base64.b64encode(picture(tmp_path / "one.png").read_bytes()).decode()
    table = {
        "image_base64": [content] * 2,
        "image_size": ["64x48"] * 2,
        "conversations": [
            [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            for _, question, answer in rows
        ],
        "type": [kind for kind, _, _ in rows],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "test.parquet")
    return tmp_path


@pytest.fixture
def spatialbench(tmp_path) -> Path:
    picture(tmp_path / "existence/a.jpg")
    (tmp_path / "existence_d").mkdir()
    Image.fromarray(np.full((48, 64), 1500, np.uint16)).save(tmp_path / "existence_d/a.png")
    picture(tmp_path / "counting/b.png")
    entries = {
        "existence": [
            {"id": 4, "image": ["existence/a.jpg"], "question": "Is there a cup?", "answer": "Yes"},
            {"id": 5, "image": "existence/a.jpg", "question": "Is there no cup?", "answer": "No"},
        ],
        "counting": [{"image": "counting/b.png", "question": "How many cups?", "answer": 3}],
    }
    for name, questions in entries.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(questions))
    return tmp_path


@pytest.fixture
def depthlm(tmp_path) -> Path:
    picture(tmp_path / "rgb/a.png")
    line = {
        "image": "rgb/a.png",
        "intrinsics": [500.0, 500.0, 32.0, 24.0, 64, 48],
        "pixel_coords": [[20, 10], [1, 10], [40, 30]],
        "depth": [2.0, 3.0, 4.0],
    }
    (tmp_path / "val.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


@pytest.fixture
def spatialrgpt(tmp_path) -> Path:
    picture(tmp_path / "kitti/a.png", (200, 100))
    entry = {
        "id": "k1",
        "image_info": {"file_path": "kitti/a.png", "height": 100, "width": 200},
        "text_q": "How wide is Region [0]?",
        "qa_info": {"type": "quantitative", "category": "width_data"},
        "conversations": [{"from": "human", "value": "How wide is <mask>?"}, {"from": "gpt", "value": "2.0 meters"}],
        "bbox": [[20, 10, 180, 90]],
    }
    (tmp_path / "SpatialRGPT-Bench_v1.json").write_text(json.dumps([entry]))
    return tmp_path


def test_msmu(msmu, tmp_path) -> None:
    model = Parrot("1.25 m", "5 chairs")
    answer_questions(model, read_questions("msmu", msmu), tmp_path / "said.jsonl")
    assert [question for _, question, _ in model.asked] == ["How far is it?", "How many chairs?"]
    assert model.asked[0][0].getpixel((3, 3)) == GREY
    assert score_file(tmp_path / "said.jsonl", "msmu", "fixed").per_type == {"absolute_distance": 100, "count": 0}


def test_spatialbench_with_depth_where_there_is_any(spatialbench, tmp_path) -> None:
    model = Parrot("Yes", "No", "There are 3")
    answer_questions(model, read_questions("spatialbench", spatialbench), tmp_path / "said.jsonl")
    assert [depth for _, _, depth in model.asked] == [spatialbench / "existence_d/a.png"] * 2 + [None]
    score = score_file(tmp_path / "said.jsonl", "spatialbench", "official")
    assert score.as_json() == {"per_type": {"existence": 100, "counting": 100}, "overall": 100, "n": 3}
    ids = [json.loads(line)["id"] for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert ids == ["4", "5", "0"]


def test_depthlm_points_at_each_pixel_that_has_room(depthlm, tmp_path) -> None:
    model = Parrot("2.1", "7")
    answer_questions(model, read_questions("depthlm", depthlm), tmp_path / "said.jsonl")
    scale = FOCAL_LENGTH / 500
    for (image, question, _), (x, y) in zip(model.asked, [(20, 10), (40, 30)], strict=True):
        assert image.size == (64 * scale, 48 * scale)
        assert "red arrow" in question
        reds = {(column, row) for column, row in np.ndindex(image.size) if image.getpixel((column, row)) == RED}
        tip, row = int(x * scale) - 1, int(y * scale)
        shaft = {(tip - step, row) for step in range(5)}
        head = {(tip - 1, row - 1), (tip - 1, row + 1), (tip - 2, row - 2), (tip - 2, row + 2)}
        assert reds == shaft | head
    assert score_file(tmp_path / "said.jsonl", "depthlm", "official").overall == 50


def test_spatialrgpt_draws_its_regions(spatialrgpt, tmp_path) -> None:
    model = Parrot("It is 180 cm wide.")
    answer_questions(model, read_questions("spatialrgpt", spatialrgpt), tmp_path / "said.jsonl")
    (image, question, _) = model.asked[0]
    assert question == "How wide is Region [0]?"
    assert image.getpixel((180, 60)) == image.getpixel((100, 90)) == RED
    assert image.getpixel((100, 60)) == image.getpixel((190, 95)) == GREY
    assert score_file(tmp_path / "said.jsonl", "spatialrgpt", "official").per_type == {"width": 100}


class TestContinuing:
    def test_after_an_interruption_nothing_is_asked_twice(self, spatialbench, tmp_path) -> None:
        questions, out = read_questions("spatialbench", spatialbench), tmp_path / "said.jsonl"
        with pytest.raises(KeyboardInterrupt):
            answer_questions(Parrot("Yes"), questions, out)
        first = out.read_text()
        out.write_text(first + '{"category": "exis')  # a line that was being written
        model = Parrot("No", "3")
        answer_questions(model, questions, out)
        assert out.read_text().startswith(first)
        assert [question for _, question, _ in model.asked] == ["Is there no cup?", "How many cups?"]
        assert score_file(out, "spatialbench", "fixed").overall == 100

    def test_line_separators_in_answers_and_a_cut_within_a_character(self, spatialbench, tmp_path) -> None:
        questions, said = read_questions("spatialbench", spatialbench), tmp_path / "said.jsonl"
        answers = ["Yes\u2028indeed", "No\u0085", "3"]
        with pytest.raises(KeyboardInterrupt):
            answer_questions(Parrot(*answers[:2]), questions, said)
        with said.open("ab") as file:
            file.write('{"response": "…'.encode()[:-1])
        answer_questions(Parrot(answers[2]), questions, said)
        lines = said.read_bytes().split(b"\n")
        assert [json.loads(line)["response"] for line in lines[:-1]] == answers and lines[-1] == b""

    def test_answers_to_other_questions_are_kept_apart(self, spatialbench, tmp_path) -> None:
        questions, out = read_questions("spatialbench", spatialbench), tmp_path / "said.jsonl"
        answer_questions(Parrot("Yes", "No", "3"), questions, out)
        with pytest.raises(UserError, match="line 1: answers another question"):
            answer_questions(Parrot(), questions[1:], out)


class TestBadInput:
    def refused(self, benchmark: str, path: Path) -> str:
        with pytest.raises(UserError) as refusal:
            for question in read_questions(benchmark, path):
                question.picture()
        return str(refusal.value)

    @pytest.mark.parametrize("benchmark", ["msmu", "spatialbench", "depthlm", "spatialrgpt"])
    def test_nothing_there(self, benchmark, tmp_path) -> None:
        assert str(tmp_path) in self.refused(benchmark, tmp_path)

    def test_missing_columns(self, tmp_path) -> None:
        pyarrow.parquet.write_table(pyarrow.table({"type": ["count"]}), tmp_path / "test.parquet")
        assert "test.parquet" in self.refused("msmu", tmp_path)

    def test_a_row_without_a_picture(self, msmu) -> None:
        file = msmu / "test.parquet"
        table = pyarrow.parquet.read_table(file).to_pydict() | {"image_base64": ["?", "?"]}
        pyarrow.parquet.write_table(pyarrow.table(table), file)
        assert f"{file}, row 1: 'image_base64' holds no picture" in self.refused("msmu", msmu)

    def test_a_missing_picture(self, spatialbench) -> None:
        (spatialbench / "counting/b.png").unlink()
        said = self.refused("spatialbench", spatialbench)
        assert "b.png: there is no such picture" in said
        assert "counting.json, entry 1" in said

    def test_a_damaged_picture(self, spatialbench) -> None:
        (spatialbench / "counting/b.png").write_bytes(b"nothing")
        assert "b.png: cannot be read as a picture" in self.refused("spatialbench", spatialbench)

    def test_a_missing_answer(self, spatialbench) -> None:
        (spatialbench / "counting.json").write_text('[{"image": "counting/b.png", "question": "How many?"}]')
        assert "counting.json, entry 1: has no field 'answer'" in self.refused("spatialbench", spatialbench)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("intrinsics", [500, 500]), ("pixel_coords", [[1, 2]]), ("depth", ["far"]), ("intrinsics", [500] * 6)],
    )
    def test_a_camera_or_pixels_that_do_not_fit(self, depthlm, field, value) -> None:
        file = depthlm / "val.jsonl"
        file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
        assert f"line 1: '{field}' is" in self.refused("depthlm", depthlm)

    def test_a_list_that_is_none(self, spatialrgpt) -> None:
        (spatialrgpt / "SpatialRGPT-Bench_v1.json").write_text('{"a": 1}')
        assert "expected a list of questions" in self.refused("spatialrgpt", spatialrgpt)


def test_a_picture_is_read_when_it_is_asked(spatialbench) -> None:
    """Thousands of pictures would not fit into memory."""
    questions = read_questions("spatialbench", spatialbench)
    picture(spatialbench / "counting/b.png", (10, 10))
    assert questions[-1].picture().size == (10, 10)


def test_pictures_with_a_palette_are_rgb(msmu) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), GREY).convert("P").save(buffer, "PNG")
    file = msmu / "test.parquet"
    content = [base64.b64encode(buffer.getvalue()).decode()] * 2
    pyarrow.parquet.write_table(
        pyarrow.table(pyarrow.parquet.read_table(file).to_pydict() | {"image_base64": content}), file
    )
    assert read_questions("msmu", file)[0].picture().mode == "RGB"
