"""Configurations are frozen dataclasses; this is how they become JSON and come back."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fathom.errors import UserError
from fathom.files import write_json

Config = TypeVar("Config")


def write_config(config: Any, path: Path, **extra: Any) -> None:
    """Write a dataclass as JSON, whole or not at all; ``extra`` entries stand before its fields."""
    write_json(path, {**extra, **asdict(config)})


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: there is no such file, or it holds no JSON object; ``what`` says what was looked for.
    """
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no {what} in {path.parent}: {path.name} is missing") from None
    except ValueError as error:  # no JSON, or no text at all
        raise UserError(f"{path} is not valid JSON ({error}): it should describe a {what}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold a JSON object that describes a {what}")
    return values


def parse_config(kind: type[Config], values: dict[str, Any], path: Path) -> Config:
    """Build the dataclass ``kind`` from JSON values.

    Raises:
        UserError: a field is unknown, missing or of the wrong type; ``path`` is named as the place.
    """
    try:
        config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "its fields"
        raise UserError(f"{path}: {field}: {first['msg']}") from None
    if unknown := _unknown(values, asdict(config)):  # type: ignore[call-overload]
        raise UserError(f"{path} has a field {unknown!r} that {kind.__name__} does not know")
    return config


def _unknown(values: dict[str, Any], known: dict[str, Any]) -> str | None:
    for name, value in values.items():
        if name not in known:
            return name
        if isinstance(value, dict) and isinstance(known[name], dict) and (inner := _unknown(value, known[name])):
            return f"{name}.{inner}"
    return None
