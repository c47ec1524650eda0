"""The choices of a depth expert, whichever policy it belongs to."""

from dataclasses import dataclass
from typing import Literal

from fathom.policies.sizes import check_positive


@dataclass(frozen=True)
class DepthConfig:
    """The depth expert and its target.

    Attributes:
        target: ``codes``: cross-entropy of the tokenizer's codes (the paper); ``pixels``: regression of the depth
            picture (the paper's ablation, Table 6); ``latents``: regression of a continuous VAE's latent
            vectors (the paper's future work).
        grid: side of the grid of depth tokens: that of the image tokens, or twice as many (paper: 16; 32 tried).
        codes: entries of the depth tokenizer's codebook (paper: 256).
        code_dim: their dimension, or that of the latent vectors (paper: 160).
        image_size: side of the depth picture that the tokenizer works on, in pixels.
        temperature: tau of the logits ``-|x - c|^2 / tau`` (paper, section 3.4.1, which gives no value); ``auto`` takes
            the codebook's mean pairwise squared distance, so that the logits do not depend on its scale (our choice).
        visibility: who reads whom: ``hybrid`` (paper, Figure 1b), ``dreamvla`` (its ablation: proprio reads depth),
            ``within_modality`` (image and text read only themselves), ``unread`` (nobody reads depth), ``by_proprio``
            (proprio alone does).
        future: also predict the depth this many frames ahead (the paper's future work); 0 for the present alone.
    """

    target: Literal["codes", "pixels", "latents"] = "codes"
    grid: int = 16
    codes: int = 256
    code_dim: int = 160
    image_size: int = 256
    temperature: float | Literal["auto"] = "auto"
    visibility: Literal["hybrid", "dreamvla", "within_modality", "unread", "by_proprio"] = "hybrid"
    future: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "grid codes code_dim image_size")
        if self.temperature != "auto" and self.temperature <= 0:
            raise ValueError(f"depth.temperature is {self.temperature}: it must be above 0, or auto")
        if self.image_size % self.grid:
            raise ValueError(f"image_size {self.image_size} must be a multiple of grid {self.grid}")
        if self.future < 0:
            raise ValueError(f"future is {self.future}: depth is predicted ahead, or 0 for the present alone")

    @property
    def head_shape(self) -> tuple[object, ...]:
        """Depth heads with the same shape can exchange weights."""
        sizes = self.image_size if self.target == "pixels" else (self.codes, self.code_dim)
        return self.target, self.grid, sizes, self.future > 0
