"""What the web page does: a picture comes in, its depth is shown, a point is chosen, a question is answered.

The page itself is `fathom.vlm.demo_page`; here is nothing of the web.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.errors import UserError
from fathom.vlm.ask import Mode, ask
from fathom.vlm.depth_input import Unit, depth_of, nearest_known, read_image

if TYPE_CHECKING:
    from fathom.vlm.model import DepthVLM

_UNKNOWN = (128, 128, 128)


@dataclass(frozen=True)
class Seen:
    """What the page shows.

    Attributes:
        picture: RGB.
        depth: of its pixels, where there is any.
        point: x and y of the pixel that was clicked.
    """

    picture: Image.Image
    depth: DepthVideo | None
    point: tuple[int, int] | None = None

    def view(self) -> Image.Image:
        """The depth map, or without depth the picture, with a cross at the point."""
        shown = self.picture.copy() if self.depth is None else depth_picture(self.depth)
        if self.point is not None:
            _draw_cross(shown, *self.point)
        return shown

    def caption(self) -> str:
        """What is known of the point, or how to choose one."""
        if self.point is None:
            return "" if self.depth is None else f"{_span(self.depth)} Click a point of the picture or of its depth."
        x, y = self.point
        if self.depth is None:
            return f"The point ({x}, {y}): its depth is not known."
        value = nearest_known(self.depth, x, y)
        hole = "" if self.depth.valid[0, y, x] else ", that of the nearest pixel that is known"
        return f"Depth at ({x}, {y}): {_spoken(value, self.depth.kind)}{hole}."


@dataclass(frozen=True)
class Desk:
    """A model that pictures are brought to."""

    model: "DepthVLM"

    def look(self, picture: Image.Image, depth: Path | None = None, unit: Unit | None = None) -> Seen:
        """The picture with its depth: from a file, or estimated, or none where there is neither.

        Raises:
            UserError: the depth is bad, or of another size than the picture.
        """
        picture, estimator = read_image(picture), self.model.processor.estimator
        if depth is None and estimator is None:
            return Seen(picture, None)
        return Seen(picture, depth_of(picture, depth, self._kind(depth), unit, estimator))

    def choose(self, seen: Seen, x: int, y: int) -> Seen:
        """The same with another point; one outside is moved to the border."""
        width, height = seen.picture.size
        return replace(seen, point=(min(max(x, 0), width - 1), min(max(y, 0), height - 1)))

    def answer(self, seen: Seen, question: str, mode: Mode) -> str:
        """What the model says, and behind it what it looked up.

        Raises:
            UserError: see :func:`fathom.vlm.ask.ask`.
        """
        if mode == "marker" and seen.point is None:
            raise UserError("the marker needs a point: click one first")
        said = ask(
            self.model,
            seen.picture,
            question.strip() or None,
            seen.depth if self._reads or mode == "depth_tool" else None,
            mode=mode,
            point=seen.point if mode == "marker" else None,
        )
        return "\n".join([said.text or "(the model said nothing)", *(f"· looked up {one}" for one in said.lookups)])

    @property
    def _reads(self) -> bool:
        return self.model.config.fusion != "none"

    def _kind(self, depth: Path | None) -> DepthKind:
        """A model that reads no depth is shown whatever there is."""
        estimator = self.model.processor.estimator
        if self._reads or depth is not None or estimator is None:
            return self.model.config.depth_kind
        return estimator.kind


def depth_picture(depth: DepthVideo) -> Image.Image:
    """One depth map in colours: red is near, blue is far, grey is not known."""
    from matplotlib import colormaps

    values, known = depth.values[0].astype(np.float64), depth.valid[0]
    nearness = -np.log(np.where(known, values, 1)) if depth.kind == "metric" else values
    low, high = np.percentile(nearness[known], [1, 99])
    share = np.clip((nearness - low) / max(high - low, 1e-6), 0, 1)
    colours = colormaps["turbo"](0.08 + 0.84 * share, bytes=True)[..., :3]  # without its ends, which are nearly black
    return Image.fromarray(np.where(known[..., None], colours, np.array(_UNKNOWN, np.uint8)).astype(np.uint8))


def _span(depth: DepthVideo) -> str:
    known = depth.values[depth.valid]
    if depth.kind == "metric":
        return f"Red is near, blue is far: {known.min():.2f} to {known.max():.2f} m."
    return "Red is near, blue is far: relative, without a unit."


def _spoken(value: float, kind: DepthKind) -> str:
    return f"{value:.2f} m" if kind == "metric" else f"{value:.2f} of relative inverse depth (1 is nearest)"


def _draw_cross(picture: Image.Image, x: int, y: int) -> None:
    """White on black, so that it is seen on any colour."""
    draw, size = ImageDraw.Draw(picture), max(picture.size)
    arm, width = max(3, size // 25), max(1, size // 250)
    for colour, wide in (("black", 3 * width), ("white", width)):
        draw.line((x - arm, y, x + arm, y), colour, wide)
        draw.line((x, y - arm, x, y + arm), colour, wide)
