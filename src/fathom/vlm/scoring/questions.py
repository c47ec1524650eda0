"""The questions of the benchmarks, read from the files in which they are published."""

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from fathom.errors import UserError
from fathom.vlm.depth_input import UNREADABLE
from fathom.vlm.marker import ARROW_QUESTION, has_room_for_arrow, normalised_size, with_arrow, with_boxes
from fathom.vlm.scoring.lines import Line, is_number, read_lines
from fathom.vlm.scoring.spatialbench import CATEGORIES


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        known: the fields of its line in a file of answers, all but the response's.
        response: the name of that field.
        picture: reads, and marks where the question points at something, its RGB picture.
        depth: a file with its depth, where the benchmark brings one.
    """

    known: dict[str, Any]
    text: str
    picture: Callable[[], Image.Image]
    depth: Path | None = None
    response: str = "response"


def read_questions(benchmark: str, path: Path) -> list[Question]:
    """The questions of a benchmark's own files, in their order.

    Args:
        path: the folder to which the benchmark was downloaded. ``msmu``: with ``test.parquet``, or one that ``fathom
            vlm questions`` made, with ``test.jsonl``; ``spatialbench``: with
            ``positional.json`` … and their picture folders; ``depthlm``: with one ``.jsonl`` and its pictures;
            ``spatialrgpt``: with ``SpatialRGPT-Bench_v1.json`` and the pictures of omni3d. The file itself will do.

    Raises:
        UserError: a file, field or picture's entry is missing or wrong, or there is no question.
    """
    questions = list(_READERS[benchmark](path))
    if not questions:
        raise UserError(f"{path}: holds no question of {benchmark}; expected the files that the benchmark publishes.")
    return questions


def _msmu(path: Path) -> Iterator[Question]:
    file = path / "test.jsonl" if (path / "test.jsonl").exists() else _file_of(path, "test.parquet")
    if file.suffix == ".jsonl":
        yield from map(_made, read_lines(file))
        return
    for number, line in enumerate(_rows(file, ["image_base64", "conversations", "type"])):
        question, answer = _conversation(line)
        known = {"id": str(number), "type": line.text("type"), "question": question, "answer": answer}
        yield Question(known, question, partial(_decoded, line))


def _made(line: Line) -> Question:
    """A question of `fathom.vlm.questions.writing`, which writes lines of MSMU's types."""
    scene = ["scene"] if "scene" in line.fields else []
    known = {name: line.text(name) for name in ("id", "type", "question", "answer", *scene)}
    image, depth = (line.path.parent / line.text(name) for name in ("image", "depth"))
    return Question(known, known["question"], partial(_opened, line, image), depth)


def _spatialbench(path: Path) -> Iterator[Question]:
    files = [path / f"{category}.json" for category in CATEGORIES] if path.is_dir() else [path]
    for file in files:
        if file.exists() or not path.is_dir():
            yield from _category(file)


def _category(file: Path) -> Iterator[Question]:
    if file.stem not in CATEGORIES:
        raise UserError(f"{file}: is no file of SpatialBench; its files are {', '.join(CATEGORIES)}, with .json.")
    for number, line in enumerate(_entries(file)):
        picture = Path(_only(line, "image"))
        depth = file.parent / f"{picture.parts[0]}_d" / f"{picture.stem}.png"  # the layout that its script expects
        question, answer = line.text("question"), line.text("answer")
        known = {"category": file.stem, "id": str(line.fields.get("id", number)), "question": question}
        picture_of = partial(_opened, line, file.parent / picture)
        yield Question(known | {"answer": answer}, question, picture_of, depth if depth.exists() else None)


def _depthlm(path: Path) -> Iterator[Question]:
    for line in read_lines(_file_of(path, "*.jsonl")):
        focal_length, size = _camera(line)
        shape, scale = normalised_size(size, focal_length)
        for number, (x, y, depth) in enumerate(_pixels(line)):
            pixel = (int(x * scale), int(y * scale))
            if has_room_for_arrow(shape, *pixel):  # the released code leaves the others out, too
                known = {"id": f"{line.text('image')}:{number}", "depth": depth}
                yield Question(known, ARROW_QUESTION, partial(_at_arrow, line, size, shape, pixel))


def _spatialrgpt(path: Path) -> Iterator[Question]:
    for line in _entries(_file_of(path, "SpatialRGPT-Bench*.json")):
        file = line.path.parent / line.inside("image_info").text("file_path")
        question, about = line.text("text_q"), line.inside("qa_info").fields
        known = {"question_id": line.text("id"), "question": question, "gt": _conversation(line)[1], "qa_info": about}
        yield Question(known, question, partial(_boxed, line, file, _boxes(line)), response="pred")


_READERS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "msmu": _msmu,
    "spatialbench": _spatialbench,
    "depthlm": _depthlm,
    "spatialrgpt": _spatialrgpt,
}


def _conversation(line: Line) -> tuple[str, str]:
    """A question and its answer: the first two turns; the picture's place in the question is left out."""
    turns = line.fields.get("conversations")
    values = [turn.get("value") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    texts = [value.replace("<image>", "").strip() for value in values[:2] if isinstance(value, str)]
    if len(texts) < 2:
        raise line.refused("conversations", "a question and its answer, each with its text in 'value'")
    return texts[0], texts[1]


def _only(line: Line, name: str) -> str:
    """A text, or the only one of a list."""
    value = line.fields.get(name)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, str) or not value:
        raise line.refused(name, "the path of one picture")
    return value


def _camera(line: Line) -> tuple[float, tuple[int, int]]:
    """Focal length in pixels, width and height."""
    values = line.numbers("intrinsics")
    focal_length = (values[0] or values[1]) if len(values) >= 6 else 0
    if focal_length <= 0 or min(values[4:6]) < 1:
        raise line.refused("intrinsics", "[fx, fy, cx, cy, width, height]")
    return focal_length, (int(values[4]), int(values[5]))


def _pixels(line: Line) -> list[tuple[float, float, float]]:
    """x, y and depth in metres of each marked pixel."""
    places, depths = line.fields.get("pixel_coords"), line.numbers("depth")
    if not isinstance(places, list) or len(places) != len(depths):
        raise line.refused("pixel_coords", f"a list of {len(depths)} [x, y], one for each depth")
    if not all(isinstance(place, list) and len(place) == 2 and all(map(is_number, place)) for place in places):
        raise line.refused("pixel_coords", "a list of [x, y]")
    return [(place[0], place[1], depth) for place, depth in zip(places, depths, strict=True)]


def _boxes(line: Line) -> list[tuple[float, float, float, float]]:
    boxes = line.fields.get("bbox")
    if not isinstance(boxes, list) or not all(
        isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) for box in boxes
    ):
        raise line.refused("bbox", "a list of [left, top, right, bottom]")
    return [(box[0], box[1], box[2], box[3]) for box in boxes]


def _decoded(line: Line) -> Image.Image:
    try:
        return _rgb(io.BytesIO(base64.b64decode(line.text("image_base64"), validate=True)))
    except (binascii.Error, *UNREADABLE):
        raise UserError(f"{line.path}, {line.noun} {line.number}: 'image_base64' holds no picture.") from None


def _opened(line: Line, file: Path) -> Image.Image:
    try:
        return _rgb(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such picture; {line.path}, {line.noun} {line.number} names it.") from None
    except UNREADABLE as error:
        raise UserError(f"{file}: cannot be read as a picture ({error}).") from None


def _at_arrow(line: Line, size: tuple[int, int], shape: tuple[int, int], pixel: tuple[int, int]) -> Image.Image:
    image = _opened(line, line.path.parent / line.text("image").lstrip("/"))
    if image.size != size:
        expected = f"{image.width} and {image.height}, the picture's size, at its end"
        raise line.refused("intrinsics", expected)
    return with_arrow(image.resize(shape), *pixel)


def _boxed(line: Line, file: Path, boxes: list[tuple[float, float, float, float]]) -> Image.Image:
    return with_boxes(_opened(line, file), boxes)


def _rgb(source: Path | io.BytesIO) -> Image.Image:
    with Image.open(source) as image:
        return image.convert("RGB")


def _file_of(path: Path, pattern: str) -> Path:
    """``path`` itself, or the one file in it of that name."""
    if not path.is_dir():
        return path
    found = sorted(path.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{path}: holds {len(found) or 'no'} files {pattern}, expected one; name the file itself.")
    return found[0]


def _entries(file: Path) -> list[Line]:
    """The objects of a JSON file that is a list of them."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file.") from None
    except ValueError:
        raise UserError(f"{file}: is not JSON; expected a list of questions.") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file}: expected a list of questions, each an object with fields.")
    return [Line(file, number, entry, "entry") for number, entry in enumerate(entries, 1)]


def _rows(file: Path, columns: list[str]) -> list[Line]:
    """The rows of a parquet file."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        rows = parquet.read_table(file, columns=columns).to_pylist()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file.") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read as a parquet file ({str(error).splitlines()[0]}).") from None
    return [Line(file, number, row, "row") for number, row in enumerate(rows, 1)]
