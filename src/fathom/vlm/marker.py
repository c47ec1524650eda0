"""Marks on pictures that a question points at: DepthLM's arrow, and named boxes around regions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

ARROW_QUESTION = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
"""DepthLM's prompt: its released models were trained with these words."""

FOCAL_LENGTH = 1000.0
"""Pixels. DepthLM brings every picture to one focal length, or a pixel's size would say nothing of metres."""

_ARROW = 5  # pixels
_RED = (255, 0, 0)
_COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan")


def normalised_size(size: tuple[int, int], focal_length: float) -> tuple[tuple[int, int], float]:
    """The size (width, height) that brings a picture to :data:`FOCAL_LENGTH`, and how many times larger it is.

    Args:
        focal_length: the camera's own, in pixels of the picture.
    """
    scale = FOCAL_LENGTH / focal_length
    return (max(1, int(size[0] * scale)), max(1, int(size[1] * scale))), scale


def has_room_for_arrow(size: tuple[int, int], x: int, y: int) -> bool:
    """Whether a picture of ``size`` (width, height) can show an arrow at a pixel: it must not touch the border."""
    return all(_ARROW <= place < length - _ARROW for place, length in zip((x, y), size, strict=True))


def with_arrow(image: Image.Image, x: int, y: int) -> Image.Image:
    """A copy of an RGB picture with DepthLM's red arrow, which ends one pixel left of the one that is asked about.

    Raises:
        ValueError: the pixel is too near to the border (`has_room_for_arrow`).
    """
    if not has_room_for_arrow(image.size, x, y):
        raise ValueError(f"no room for an arrow at ({x}, {y}) in a picture of {image.width}×{image.height}")
    marked = image.copy()
    shaft = [(x - step, y) for step in range(1, _ARROW + 1)]
    head = [(x - 1 - step, y + side * step) for step in range(1, _ARROW // 2 + 1) for side in (1, -1)]
    for pixel in shaft + head:
        marked.putpixel(pixel, _RED)
    return marked


def with_boxes(image: Image.Image, boxes: Sequence[tuple[float, float, float, float]]) -> Image.Image:
    """A copy of an RGB picture with a box around each region, named ``Region [0]``, ``Region [1]`` …

    Args:
        boxes: left, top, right, bottom in pixels; what lies outside the picture is cut off.
    """
    marked = image.copy()
    draw = ImageDraw.Draw(marked)
    for number, (left, top, right, bottom) in enumerate(boxes):
        colour = _COLOURS[number % len(_COLOURS)]
        xs = sorted(min(max(x, 0), image.width - 1) for x in (left, right))
        ys = sorted(min(max(y, 0), image.height - 1) for y in (top, bottom))
        draw.rectangle((xs[0], ys[0], xs[1], ys[1]), outline=colour, width=2)
        name = f"Region [{number}]"
        corner = (xs[0] + 3, ys[0] + 3)
        draw.rectangle(draw.textbbox(corner, name), fill="black")
        draw.text(corner, name, fill=colour)
    return marked
