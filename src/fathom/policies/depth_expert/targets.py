"""What the depth expert is asked for: codes (the paper), or pixels or continuous latents in their place."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.policies.depth_expert.config import DepthConfig


class DepthTarget(nn.Module, ABC):
    """How a depth picture becomes a target, and the expert's values a picture.

    Attributes:
        values: numbers that the depth head gives for each depth token.
    """

    values: int

    @abstractmethod
    def of(self, tokenizer: DepthTokenizer, depth: Float[Tensor, "batch 1 height width"]) -> Any:
        """The target of a batch of depth pictures."""

    @abstractmethod
    def error(self, predicted: Float[Tensor, "batch depth_tokens values"], target: Any) -> Float[Tensor, " batch"]:
        """The loss of each sample."""

    @abstractmethod
    def picture(
        self, predicted: Float[Tensor, "batch depth_tokens values"], tokenizer: DepthTokenizer
    ) -> Float[Tensor, "batch 1 size size"]:
        """What the prediction looks like, in metres."""

    def attach(self, tokenizer: DepthTokenizer) -> None:
        """Take over what the target needs to know of the tokenizer."""


class Codes(DepthTarget):
    """The tokenizer's codes, by cross-entropy of the logits ``-|x - c|^2 / tau`` (paper, section 3.4.1)."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.values = config.code_dim
        self.fixed_temperature: float | Literal["auto"] = config.temperature
        self.codebook = nn.Buffer(torch.zeros(config.codes, config.code_dim, dtype=torch.float32))
        self.temperature = nn.Buffer(torch.ones((), dtype=torch.float32))

    def attach(self, tokenizer: DepthTokenizer) -> None:
        """Take over the frozen codebook, and the temperature that goes with it."""
        codebook = tokenizer.codebook.detach()
        self.codebook.copy_(codebook)
        if self.fixed_temperature == "auto":
            squared = torch.cdist(codebook, codebook).square()
            self.temperature.copy_(squared.sum() / (len(codebook) * (len(codebook) - 1)))
        else:
            self.temperature.fill_(self.fixed_temperature)

    def of(self, tokenizer: DepthTokenizer, depth: Tensor) -> Int[Tensor, "batch depth_tokens"]:
        """See :class:`DepthTarget`."""
        return tokenizer.encode(depth)

    def logits(
        self, predicted: Float[Tensor, "batch depth_tokens values"]
    ) -> Float[Tensor, "batch depth_tokens codes"]:
        """Logits over the codes, in fp32."""
        with torch.autocast(predicted.device.type, enabled=False):
            latent, codebook = predicted.float(), self.codebook.float()
            squared = latent.square().sum(-1, keepdim=True) - 2 * latent @ codebook.mT + codebook.square().sum(-1)
            return -squared / self.temperature.float()

    def error(self, predicted: Tensor, target: Tensor) -> Float[Tensor, " batch"]:
        """See :class:`DepthTarget`."""
        return F.cross_entropy(self.logits(predicted).mT, target, reduction="none").mean(1)

    def accuracy(self, predicted: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """Share of depth tokens whose most likely code is the right one."""
        return (self.logits(predicted).argmax(-1) == target).float().mean()

    def picture(self, predicted: Tensor, tokenizer: DepthTokenizer) -> Float[Tensor, "batch 1 size size"]:
        """See :class:`DepthTarget`: the most likely codes, decoded."""
        return tokenizer.decode(self.logits(predicted).argmax(-1))


class Latents(DepthTarget):
    """A continuous VAE's latent vectors, by mean squared error (the paper's future work)."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.values = config.code_dim

    def of(self, tokenizer: DepthTokenizer, depth: Tensor) -> Float[Tensor, "batch depth_tokens code_dim"]:
        """See :class:`DepthTarget`."""
        return tokenizer.latents(depth)

    def error(self, predicted: Tensor, target: Tensor) -> Float[Tensor, " batch"]:
        """See :class:`DepthTarget`."""
        return (predicted.float() - target).square().mean((1, 2))

    def picture(self, predicted: Tensor, tokenizer: DepthTokenizer) -> Float[Tensor, "batch 1 size size"]:
        """See :class:`DepthTarget`."""
        return tokenizer.decode_latents(predicted.float())


class Pixels(DepthTarget):
    """The depth picture itself as the tokenizer would see it, by mean absolute error over valid pixels.

    Each depth token gives the square of pixels that it stands for.
    """

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.grid, self.side = config.grid, config.image_size // config.grid
        self.values = self.side**2

    def of(self, tokenizer: DepthTokenizer, depth: Tensor) -> tuple[Tensor, Tensor]:
        """The picture in [0, 1] and where it is valid."""
        return tokenizer.prepare(depth)

    def error(self, predicted: Tensor, target: tuple[Tensor, Tensor]) -> Float[Tensor, " batch"]:
        """See :class:`DepthTarget`."""
        picture, counts = target
        missed = (self._assembled(predicted) - picture).abs() * counts
        return missed.sum((1, 2, 3)) / counts.sum((1, 2, 3)).clamp(min=1)

    def picture(self, predicted: Tensor, tokenizer: DepthTokenizer) -> Float[Tensor, "batch 1 size size"]:
        """See :class:`DepthTarget`."""
        return tokenizer.depth_of(self._assembled(predicted))

    def _assembled(self, predicted: Tensor) -> Float[Tensor, "batch 1 size size"]:
        squares = predicted.float().mT.unflatten(2, (self.grid, self.grid))
        return F.pixel_shuffle(squares, self.side)


TARGETS: dict[str, type[Codes] | type[Latents] | type[Pixels]] = {"codes": Codes, "latents": Latents, "pixels": Pixels}
"""By the name in :class:`DepthConfig`."""


def check_fits(config: DepthConfig, tokenizer: DepthTokenizer) -> None:
    """Refuse a tokenizer that cannot give what the depth expert is asked for.

    Raises:
        UserError: it is of another kind or of other sizes.
    """
    theirs = tokenizer.config
    if config.target != "pixels" and theirs.has_codes != (config.target == "codes"):
        raise UserError(
            f"depth.target is {config.target!r} and the depth tokenizer's quantizer {theirs.quantizer!r}: "
            "codes need 'vq', 'ema' or 'fsq', latents need 'none'"
        )
    for name in ("grid", "image_size", "code_dim", *(["codes"] if config.target == "codes" else [])):
        if getattr(config, name) != getattr(theirs, name):
            raise UserError(
                f"the depth tokenizer has {name} {getattr(theirs, name)}, the policy expects {getattr(config, name)}"
            )
