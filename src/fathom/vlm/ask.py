"""Ask a picture: plainly, with SpatialBot's depth tool, or about a point that DepthLM's arrow shows (SPEC §2)."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from fathom.depth.depth_map import DepthVideo
from fathom.depth.estimators import open_estimator
from fathom.errors import UserError
from fathom.vlm.depth_input import DepthSource, ImageSource, Unit, depth_of, nearest_known, read_image, resized
from fathom.vlm.marker import ARROW_QUESTION, has_room_for_arrow, normalised_size, with_arrow
from fathom.vlm.scoring.answers import final

if TYPE_CHECKING:
    import torch

    from fathom.vlm.model import DepthVLM
    from fathom.vlm.processor import Message

Mode = Literal["plain", "depth_tool", "marker"]
"""``plain``: the question as it is. ``depth_tool``: the model may look up the depth of points (SpatialBot, arXiv
2406.13642). ``marker``: a red arrow shows the point that is asked about (DepthLM, arXiv 2509.25413)."""

TOOL = (
    "If you need the depth of a point, write Depth(x,y) and nothing after it, x from 0 (left) to 1 (right) and y from "
    "0 (top) to 1 (bottom). You will be told its depth in millimetres."
)
"""What the model is told about the tool, below the question."""

_CALL = re.compile(r"\bDepth\s*\(\s*([+-]?\d*\.?\d+)\s*,\s*([+-]?\d*\.?\d+)\s*\)", re.IGNORECASE)
_FOCAL_LENGTHS = (0.1, 50.0)  # in widths of the picture: from a fish-eye to a telescope


@dataclass(frozen=True)
class Lookup:
    """One call of the depth tool.

    Attributes:
        x, y: 0 to 1, from the left and from the top; what the model wrote.
        millimetres: what it was told; ``None`` where the point lies outside of the picture.
    """

    x: float
    y: float
    millimetres: int | None

    def __str__(self) -> str:
        told = "outside of the picture" if self.millimetres is None else f"{self.millimetres} mm"
        return f"Depth({self.x:g},{self.y:g}): {told}"


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: its last words.
        lookups: the depths that it asked for before, in their order.
        finished: false where it went on asking for depths until it was stopped, and never answered.
    """

    text: str
    lookups: tuple[Lookup, ...] = ()
    finished: bool = True


def open_for_asking(
    model: str | Path, estimator: str | None = None, weights: str | None = None, *, device: "torch.device | str" = "cpu"
) -> "DepthVLM":
    """A saved or published model, with something that gives it the depth of pictures that come without.

    On a GPU its weights are in bf16.

    Args:
        model: see :func:`fathom.vlm.saving.load_depth_vlm`.
        estimator: one of :data:`fathom.depth.estimators.NAMES`.
        weights: the estimator's.

    Raises:
        UserError: the model or the estimator cannot be opened, or there are weights and no estimator.
    """
    import torch

    from fathom.vlm.saving import load_depth_vlm

    if estimator is None and weights is not None:
        raise UserError(f"the weights {weights} are for no estimator: name one, such as transformers")
    opened = None if estimator is None else open_estimator(estimator, weights, device=device)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    found = load_depth_vlm(model, dtype=dtype, device=device)
    found.processor.estimator = opened
    return found


def check_request(
    question: str | None,
    mode: Mode = "plain",
    point: tuple[float, float] | None = None,
    focal_length: float | None = None,
    max_new_tokens: int = 128,
) -> None:
    """Refuse what :func:`ask` can ask no model, before one is loaded.

    Raises:
        UserError: there is no question or no room for an answer, or the point is missing, of no use, or no place.
    """
    if (point is None) == (mode == "marker") or (focal_length is not None and mode != "marker"):
        raise UserError("a point, and a focal length, belong to mode = marker, and marker needs a point")
    if point is not None and not all(math.isfinite(place) for place in point):
        raise UserError(f"the point ({point[0]:g}, {point[1]:g}) is no place in a picture: give x and y in pixels")
    if not (question or "").strip() and mode != "marker":
        raise UserError(f"mode = {mode} needs a question")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}: an answer needs at least 1")


def ask(
    model: "DepthVLM",
    image: ImageSource,
    question: str | None = None,
    depth: DepthSource | None = None,
    *,
    unit: Unit | None = None,
    mode: Mode = "plain",
    point: tuple[float, float] | None = None,
    focal_length: float | None = None,
    turns: int = 8,
    max_new_tokens: int = 128,
) -> Answer:
    """What a model says about a picture.

    Args:
        question: with ``marker`` it may be left out: DepthLM's own prompt asks how far the point is.
        depth: of the picture, see :func:`fathom.vlm.depth_input.read_depth`; without it the processor's estimator is
            asked. A model without fusion looks at none, unless it is for the depth tool.
        unit: of the depth.
        point: of ``marker``: x and y in pixels of the picture.
        focal_length: of ``marker``: of the camera, in pixels. The picture is then brought to the focal length that
            DepthLM's models were trained with; their answers mean little without.
        turns: of ``depth_tool``: how many depths the model may ask for.
        max_new_tokens: of each thing that it says.

    Raises:
        UserError: the picture, its depth or the point is bad, the depth is needed and not there, or there is no
            question or no room for an answer.
    """
    check_request(question, mode, point, focal_length, max_new_tokens)
    picture, config = read_image(image), model.config
    reads, estimator = config.fusion != "none", model.processor.estimator
    if point is not None:
        seen = depth_of(picture, depth, config.depth_kind, unit, estimator) if reads else None
        picture, seen = _marked(picture, seen, point, focal_length)
        said = model.reply(picture, [_user(question or ARROW_QUESTION)], seen, max_new_tokens=max_new_tokens)
        return Answer(said if question else _in_metres(final(said).strip()))
    assert question is not None
    if mode == "plain":
        return Answer(model.reply(picture, [_user(question)], depth, unit=unit, max_new_tokens=max_new_tokens))
    if reads and config.depth_kind != "metric":
        raise UserError(
            f"the depth tool answers in millimetres, and this model reads {config.depth_kind} depth: ask it plainly"
        )
    known = depth_of(picture, depth, "metric", unit, estimator)
    return _with_tool(model, picture, question, known, turns, max_new_tokens)


def _with_tool(
    model: "DepthVLM", picture: Image.Image, question: str, depth: DepthVideo, turns: int, max_new_tokens: int
) -> Answer:
    """The conversation goes on until the model says something without asking for a depth."""
    conversation: list[Message] = [_user(f"{question}\n{TOOL}")]
    lookups: list[Lookup] = []
    while True:
        said = model.reply(picture, conversation, depth, max_new_tokens=max_new_tokens)
        call = _CALL.search(said)
        if call is None or len(lookups) == turns:
            return Answer(said, tuple(lookups), finished=call is None)
        lookups.append(_look_up(depth, float(call[1]), float(call[2])))
        # whatever it wrote behind its call, it wrote without knowing the depth
        conversation += [{"role": "assistant", "content": said[: call.end()]}, _user(_told(lookups[-1]))]


def _look_up(depth: DepthVideo, x: float, y: float) -> Lookup:
    if not (0 <= x <= 1 and 0 <= y <= 1):
        return Lookup(x, y, None)
    height, width = depth.values.shape[1:]
    metres = nearest_known(depth, min(int(x * width), width - 1), min(int(y * height), height - 1))
    return Lookup(x, y, round(1000 * metres))


def _told(lookup: Lookup) -> str:
    if lookup.millimetres is None:
        return "That point is outside of the picture: x and y go from 0 to 1."
    return f"{lookup.millimetres} mm"


def _marked(
    picture: Image.Image, depth: DepthVideo | None, point: tuple[float, float], focal_length: float | None
) -> tuple[Image.Image, DepthVideo | None]:
    """Picture and depth at DepthLM's focal length, the picture with its arrow."""
    size, scale = picture.size, 1.0
    if focal_length is not None:
        low, high = (share * picture.width for share in _FOCAL_LENGTHS)
        if not low <= focal_length <= high:
            raise UserError(
                f"a focal length of {focal_length:g} pixels does not fit a picture of {picture.width}x{picture.height} "
                "pixels: give that of the camera in pixels, mostly about the picture's width"
            )
        size, scale = normalised_size(picture.size, focal_length)
    x, y = (int(place * scale) for place in point)
    if not has_room_for_arrow(size, x, y):
        raise UserError(
            f"the point ({point[0]:g}, {point[1]:g}) is outside of the picture of {picture.width}x{picture.height} "
            "pixels, or too near to its border for the arrow: choose another one"
        )
    return with_arrow(picture.resize(size), x, y), None if depth is None else resized(depth, size)


def _in_metres(said: str) -> str:
    """DepthLM's prompt asks for the number alone."""
    return f"{said} m" if re.fullmatch(r"\d*\.?\d+", said) else said


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}
