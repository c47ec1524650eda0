"""Depth Anything V2, and every other depth estimator of transformers, frame by frame."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from fathom.config import read_json
from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.errors import UserError
from fathom.hub import local_folder
from fathom.weights import fingerprint, first_few

KINDS: dict[str, DepthKind] = {"relative": "relative_inverse", "metric": "metric"}
"""The kinds of depth, by what a model's configuration calls them."""

_FRAMES_AT_ONCE = 8


class TransformersDepth:
    """A model of transformers' ``AutoModelForDepthEstimation`` with its image processor; torchvision is not needed.

    Attributes:
        kind: of its depth, as ``depth_estimation_type`` in its configuration says.
    """

    def __init__(
        self, source: str | Path, *, input_size: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Open a folder or a hub repository.

        Args:
            source: with config.json, model.safetensors and preprocessor_config.json.
            input_size: the side in pixels to which pictures are resized; by default the processor's own.

        Raises:
            UserError: it is no such model, parts of it are missing, or it does not say which depth it estimates.
        """
        folder = local_folder(source, ("*.json", "*.safetensors"))
        self._device = torch.device(device)
        self._model = _load_model(folder).to(self._device).eval().requires_grad_(False)
        self.kind = _kind(self._model.config, folder)
        self._processor = _load_processor(folder, input_size)
        size = input_size or dict(self._processor.size)
        self._provenance = {"estimator": str(source), "input_size": size, "weights": fingerprint(self._model)}

    @torch.inference_mode()
    def estimate(self, frames: UInt8[np.ndarray, "frames height width 3"], *, episode: int | None = None) -> DepthVideo:
        """The depth of one episode, each frame by itself."""
        if len(frames) == 0:
            raise UserError("an episode has no frames: there is no depth to estimate")
        parts = np.split(frames, range(_FRAMES_AT_ONCE, len(frames), _FRAMES_AT_ONCE))
        values = np.concatenate([self._depth(part).float().cpu().numpy() for part in parts])
        valid = np.isfinite(values) & (values > 0 if self.kind == "metric" else True)
        return DepthVideo(values, self.kind, valid, self._provenance)

    def _depth(self, frames: UInt8[np.ndarray, "frames height width 3"]) -> Float[Tensor, "frames height width"]:
        inputs = self._processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
        found = self._model(pixel_values=inputs["pixel_values"].to(self._device))
        size = frames.shape[1:3]
        if hasattr(self._processor, "post_process_depth_estimation"):  # it undoes what it did, such as padding
            results = self._processor.post_process_depth_estimation(found, target_sizes=[size] * len(frames))
            return torch.stack([result["predicted_depth"] for result in results])
        return F.interpolate(found.predicted_depth[:, None], size, mode="bicubic").squeeze(1)


def _load_model(folder: Path) -> Any:
    from transformers import AutoModelForDepthEstimation
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of missing keys becomes our one sentence
    try:
        model, report = AutoModelForDepthEstimation.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is no depth estimator of transformers: {_reason(error)}") from None
    finally:
        logging.set_verbosity(before)
    complaints = [
        *(f"missing {key}" for key in sorted(report["missing_keys"])),
        *(f"unknown {key}" for key in sorted(report["unexpected_keys"])),
        *(f"{key} of another shape" for key, *_ in sorted(report["mismatched_keys"])),
    ]
    if complaints:
        raise UserError(f"the weights in {folder} do not fit its config.json: {first_few(complaints)}")
    return model


def _kind(config: Any, folder: Path) -> DepthKind:
    """By the model's own word, never by its name."""
    said = getattr(config, "depth_estimation_type", None)
    if said not in KINDS:
        raise UserError(
            f'{folder / "config.json"}: depth_estimation_type is {said!r}; add "relative" (inverse depth, larger is '
            'nearer) or "metric" (metres) as its documentation says'
        )
    return KINDS[said]


def _load_processor(folder: Path, input_size: int | None) -> Any:
    """The model's own image processor; where there are two of it, the one that does without torchvision."""
    import transformers

    said = read_json(folder / "preprocessor_config.json", "image processor").get("image_processor_type", "")
    kind = getattr(transformers, f"{str(said).removesuffix('Fast')}Pil", transformers.AutoImageProcessor)
    changes = {} if input_size is None else {"size": {"height": input_size, "width": input_size}}
    try:
        return kind.from_pretrained(folder, local_files_only=True, **changes)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{folder} has no image processor that can be used here: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
