"""Files of one JSON object a line: each field is read where it is used, and a wrong one names file and line."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import UserError


@dataclass(frozen=True)
class Line:
    """One question, answered or not.

    Attributes:
        number: its place in the file, from 1.
        noun: what the file calls such a place.
    """

    path: Path
    number: int
    fields: dict[str, Any]
    noun: str = "line"

    @property
    def id(self) -> str:
        """What its benchmark calls it."""
        return str(self.fields.get("id", self.fields.get("question_id", self.number)))

    def text(self, name: str) -> str:
        """A field that is a text, or what a text can stand for: a number or a list of numbers.

        Raises:
            UserError: it is missing or something else.
        """
        value = self._field(name)
        if isinstance(value, str):
            return value
        if not all(is_number(part) for part in (value if isinstance(value, list) else [value])):
            raise self.refused(name, "a text")
        return json.dumps(value)

    def positive(self, name: str) -> float:
        """A field that is a number above 0.

        Raises:
            UserError: it is missing or something else.
        """
        value = self._field(name)
        if not (is_number(value) and value > 0):
            raise self.refused(name, "a number above 0")
        return float(value)

    def numbers(self, name: str) -> list[float]:
        """A field that is a list of numbers.

        Raises:
            UserError: it is missing or something else.
        """
        value = self._field(name)
        if not (isinstance(value, list) and all(map(is_number, value))):
            raise self.refused(name, "a list of numbers")
        return [float(number) for number in value]

    def one_of(self, name: str, choices: Iterable[str]) -> str:
        """A field that is one of some words.

        Raises:
            UserError: it is missing or another one.
        """
        value = self._field(name)
        if not (isinstance(value, str) and value in choices):
            raise self.refused(name, f"one of {', '.join(choices)}")
        return value

    def inside(self, name: str) -> "Line":
        """A field that holds fields itself.

        Raises:
            UserError: it is missing or something else.
        """
        value = self._field(name)
        if not isinstance(value, dict):
            raise self.refused(name, "an object with fields")
        return Line(self.path, self.number, value, self.noun)

    def mark(self) -> float | None:
        """What a judge gave, in the field ``mark``: 0 to 1; ``None`` where no judge did.

        Raises:
            UserError: it is something else.
        """
        value = self.fields.get("mark")
        if value is not None and not (is_number(value) and 0 <= value <= 1):
            raise self.refused("mark", "a number from 0 to 1")
        return None if value is None else float(value)

    def refused(self, name: str, expected: str) -> UserError:
        """The sentence for a field that is not what was expected."""
        value = json.dumps(self.fields.get(name), ensure_ascii=False)
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        return UserError(f"{self.path}, {self.noun} {self.number}: '{name}' is {shown}, expected {expected}.")

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            raise UserError(f"{self.path}, {self.noun} {self.number}: has no field '{name}'; every question needs it.")
        return self.fields[name]


def read_lines(path: Path) -> list[Line]:
    """All lines of a file of answers; empty ones are skipped.

    Raises:
        UserError: the file is missing, no text, holds a line that is no JSON object, or holds none at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file; expected one JSON object a line, one line a question."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8; expected one JSON object a line.") from None
    lines = [_line(path, number, content) for number, content in enumerate(text.split("\n"), 1) if content.strip()]
    if not lines:
        raise UserError(f"{path}: is empty; expected one JSON object a line, one line a question.")
    return lines


def _line(path: Path, number: int, content: str) -> Line:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{path}, line {number}: is not JSON; expected one JSON object a line.") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}, line {number}: is JSON, but no object; expected one object with fields a line.")
    return Line(path, number, fields)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
