"""Where depth comes from: estimated from the pictures, or recorded with them."""

from pathlib import Path
from typing import TYPE_CHECKING

from fathom.depth.depth_map import DepthKind
from fathom.depth.estimators.estimator import Estimator
from fathom.errors import UserError

if TYPE_CHECKING:
    import torch

VIDEO_DEPTH: dict[str, DepthKind] = {
    "video-depth-anything": "relative_inverse",
    "metric-video-depth-anything": "metric",
}
"""The names of Video-Depth-Anything, by which depth its weights were trained for."""

NAMES = (*VIDEO_DEPTH, "transformers", "recorded")

__all__ = ["NAMES", "VIDEO_DEPTH", "Estimator", "open_estimator"]


def open_estimator(
    name: str, weights: str | Path | None, *, size: int | None = None, device: "torch.device | str" = "cpu"
) -> Estimator:
    """The estimator of that name, ready to run.

    Args:
        name: one of :data:`NAMES`.
        weights: a file, a folder or a hub id; for ``recorded`` the folder with what was recorded.
        size: the side in pixels to which pictures are resized for the network; ``None`` for its own.
        device: where the network runs.

    Raises:
        UserError: the name is unknown, the weights are missing, damaged or of another model or size.
    """
    if name not in NAMES:
        raise UserError(f"there is no estimator {name!r}: it is one of {', '.join(NAMES)}")
    if name == "recorded":
        from fathom.depth.estimators.recorded import RecordedDepth

        if weights is None:
            raise UserError("recorded depth needs the folder where it lies, with episode_000000.npz …, as weights")
        if size is not None:
            raise UserError("recorded depth has the size that it was recorded in: leave out the size")
        return RecordedDepth(weights)
    if name == "transformers":
        from fathom.depth.estimators.from_transformers import TransformersDepth

        if weights is None:
            raise UserError(
                "transformers needs weights: a folder or a hub id, such as depth-anything/Depth-Anything-V2-Small-hf"
            )
        return TransformersDepth(weights, input_size=size, device=device)
    from fathom.depth.estimators.video_depth_anything import HUB_IDS, INPUT_SIZE, VideoDepthAnything

    if weights is None:
        raise UserError(
            f"{name} needs weights: a .pth or .safetensors file, a folder with one, or a hub id ({HUB_IDS})"
        )
    input_size = INPUT_SIZE if size is None else size
    return VideoDepthAnything.open(name, VIDEO_DEPTH[name], weights, input_size=input_size, device=device)
