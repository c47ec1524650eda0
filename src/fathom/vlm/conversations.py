"""Conversations about pictures, as files of MSMU, SpatialQA, TRL and `fathom vlm questions` hold them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.vlm.depth_input import Unit
from fathom.vlm.processor import Message
from fathom.vlm.scoring.lines import Line, read_lines

_PLACE_OF_PICTURE = re.compile(r"<(?:image|depth)(?:[ _]?\d+)?>\s*")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Conversation:
    """What is said about one picture, ending with the assistant.

    Attributes:
        image: a file.
        messages: the turns; the picture is not mentioned in them, the processor puts it first.
        depth: a file with the depth of the picture, if there is one.
        unit: of the depth.
        scene: what pictures that look alike have in common, such as their episode; by default the picture itself.
    """

    image: Path
    messages: tuple[Message, ...]
    depth: Path | None = None
    unit: Unit | None = None
    scene: str = ""

    def __post_init__(self) -> None:
        if not self.scene:
            object.__setattr__(self, "scene", str(self.image))


def read_conversations(path: Path, images: Path | None = None) -> list[Conversation]:
    """The conversations of a file, in its order.

    A ``.json`` file is a list of objects, any other has one object a line. An object has ``image`` (a path, or the two
    of a picture and its depth, as in SpatialQA), perhaps ``depth``, its ``unit`` (m or mm) and ``scene``, and what is
    said: ``question`` and ``answer`` (`fathom vlm questions`); or ``conversations`` of ``{"from": "human" | "gpt",
    "value"}`` (MSMU, SpatialQA); or ``messages`` of ``{"role", "content"}`` (TRL). Marks such as ``<image>`` are left
    out.

    Args:
        images: the folder that the paths start from; by default the file's own.

    Raises:
        UserError: the file, a field or a picture is missing, or a conversation does not end with the assistant.
    """
    folder = images or path.parent
    found = [_conversation(line, folder) for line in (_entries(path) if path.suffix == ".json" else read_lines(path))]
    files = dict.fromkeys(file for one in found for file in (one.image, one.depth) if file is not None)
    if missing := [str(file) for file in files if not file.is_file()]:
        raise UserError(
            f"{path}: {len(missing)} of its {len(files)} pictures are missing, such as {missing[0]}: give the folder "
            "that their paths start from.",
            missing[:20],
        )
    return found


def _conversation(line: Line, folder: Path) -> Conversation:
    image, depth = _pictures(line)
    unit = line.one_of("unit", ("m", "mm")) if "unit" in line.fields else None
    messages = _messages(line)
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError(f"{line.path}, {line.noun} {line.number}: does not end with the assistant's answer.")
    scene = line.text("scene") if "scene" in line.fields else ""
    return Conversation(folder / image, messages, folder / depth if depth else None, unit, scene)  # type: ignore[arg-type]


def _pictures(line: Line) -> tuple[str, str | None]:
    """The paths of the picture and its depth."""
    image: Any = line.fields.get("image")
    depth: Any = line.fields.get("depth")
    if isinstance(image, list) and 1 <= len(image) <= 2:
        image, depth = image[0], image[1] if len(image) == 2 else depth
    if not isinstance(image, str) or not image:
        raise line.refused("image", "the path of a picture")
    if depth is not None and not isinstance(depth, str):
        raise line.refused("depth", "the path of a depth map")
    return image, depth


def _messages(line: Line) -> tuple[Message, ...]:
    if "conversations" in line.fields:
        return _turns(line, "conversations", "from", "value")
    if "messages" in line.fields:
        return _turns(line, "messages", "role", "content")
    question, answer = line.text("question"), line.text("answer")
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _turns(line: Line, field: str, role: str, content: str) -> tuple[Message, ...]:
    turns = line.fields[field]
    well_formed = isinstance(turns, list) and all(
        isinstance(turn, dict) and turn.get(role) in _ROLES and isinstance(turn.get(content), str) for turn in turns
    )
    if not well_formed:
        raise line.refused(
            field, f"a list of turns, each with '{role}' (such as {_example(role)}) and text '{content}'"
        )
    return tuple(
        {"role": _ROLES[turn[role]], "content": _PLACE_OF_PICTURE.sub("", turn[content]).strip()} for turn in turns
    )


def _example(role: str) -> str:
    return "human and gpt" if role == "from" else "user and assistant"


def _entries(path: Path) -> Sequence[Line]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; expected a list of conversations.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON; expected a list of conversations.") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: expected a list of conversations, each an object with fields.")
    return [Line(path, number, entry, "entry") for number, entry in enumerate(entries, 1)]
