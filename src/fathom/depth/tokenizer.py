"""The depth tokenizer: a VQ-VAE that turns a depth picture into a grid of codes, and codes back into a picture.

Source: QDepth-VLA (arXiv 2510.14836), section 3.2, equations 1 and 2.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from fathom.config import parse_config, read_json, write_config
from fathom.depth.depth_map import LogRange, valid
from fathom.errors import UserError
from fathom.weights import load_weights, save_weights


@dataclass(frozen=True)
class DepthTokenizerConfig:
    """The size of the VQ-VAE; the defaults are the paper's, with [D] where it is silent.

    Attributes:
        image_size: side of the square depth picture, in pixels [D: lines up with 16x16 patches of a 224 px image].
        grid: side of the code grid; the paper uses 16 and tries 32.
        codes: entries of the codebook, K.
        code_dim: their dimension, d.
        width: channels at the code grid, halved at every doubling of the resolution; residual blocks stand at the
            code grid and at twice its resolution, finer levels are plain convolutions [D].
        commitment: the weight beta of the commitment term.
        depth_range: the fixed range on which metric depth is put.
    """

    image_size: int = 256
    grid: int = 16
    codes: int = 256
    code_dim: int = 160
    width: int = 128
    commitment: float = 0.25
    depth_range: LogRange = field(default_factory=lambda: LogRange(0.1, 10.0))

    def __post_init__(self) -> None:
        if self.image_size % self.grid or (self.image_size // self.grid) & (self.image_size // self.grid - 1):
            raise ValueError(f"image_size {self.image_size} must be grid {self.grid} times a power of two")


@dataclass(frozen=True)
class TokenizerLosses:
    """The terms of equation 2; each a mean over elements [D]."""

    reconstruction: Float[Tensor, ""]
    codebook: Float[Tensor, ""]
    commitment: Float[Tensor, ""]
    total: Float[Tensor, ""]


class DepthTokenizer(nn.Module):
    """Depth picture to code indices and back."""

    def __init__(self, config: DepthTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        levels = (config.image_size // config.grid).bit_length() - 1
        widths = [max(8, config.width >> (levels - 1 - level)) for level in range(levels)]
        self.encoder = _encoder(widths, config.code_dim)
        self.decoder = _decoder(widths[::-1], config.code_dim)
        # The library's own losses weight codebook and commitment alike: they are off, and equation 2 is in `loss`.
        self.quantizer = VectorQuantize(
            dim=config.code_dim,
            codebook_size=config.codes,
            accept_image_fmap=True,
            learnable_codebook=True,
            ema_update=False,
            commitment_weight=0.0,
            rotation_trick=False,
            kmeans_init=True,
            decay=0.99,
            threshold_ema_dead_code=2,
        )

    @property
    def codebook(self) -> Float[Tensor, "codes code_dim"]:
        """The code vectors."""
        return self.quantizer.codebook

    def loss(self, depth: Float[Tensor, "batch 1 height width"]) -> TokenizerLosses:
        """Equation 2 on metric depth of any size; invalid pixels do not count in the reconstruction."""
        target, mask = self.prepare(depth)
        latent = self.encoder(target)
        straight_through, indices, _ = self.quantizer(latent)
        code = self.codebook[indices].movedim(-1, 1)
        error = (self.decoder(straight_through) - target).abs() * mask
        reconstruction = error.sum() / mask.sum().clamp(min=1)
        codebook = F.mse_loss(code, latent.detach())
        commitment = F.mse_loss(latent, code.detach())
        total = reconstruction + codebook + self.config.commitment * commitment
        return TokenizerLosses(reconstruction, codebook, commitment, total)

    @torch.no_grad()
    def encode(self, depth: Float[Tensor, "batch 1 height width"]) -> Int[Tensor, "batch tokens"]:
        """Metric depth of any size to code indices, row by row of the grid (equation 1)."""
        with torch.autocast(depth.device.type, enabled=False):  # labels do not depend on how a policy computes
            latent = self.encoder(self.prepare(depth)[0]).flatten(2).mT
            return torch.cdist(latent, self.codebook[None]).argmin(-1)

    @torch.no_grad()
    def decode(self, indices: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch 1 size size"]:
        """Code indices to metric depth."""
        latent = self.codebook[indices].mT.unflatten(2, (self.config.grid, self.config.grid))
        return self.config.depth_range.denormalize(self.decoder(latent).clamp(0, 1))

    def prepare(
        self, depth: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch 1 size size"], Float[Tensor, "batch 1 size size"]]:
        """Metric depth as the encoder sees it: in [0, 1] at the tokenizer's size, and where it is valid (0 or 1).

        Depth is sampled at the nearest pixel: a mean of a near and a far surface would be a surface that is not there.
        """
        size = (self.config.image_size,) * 2
        depth = depth.float()
        if depth.shape[-2:] != size:
            depth = F.interpolate(depth, size, mode="nearest-exact")
        return self.config.depth_range.normalize(depth), valid(depth).float()

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, folder / "model.safetensors")
        write_config(self.config, folder / "config.json", type="vq_vae")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: there is no tokenizer in the folder, or its weights do not fit its configuration.
        """
        path = Path(folder) / "config.json"
        values = read_json(path, "depth tokenizer")
        if values.pop("type", None) != "vq_vae":
            raise UserError(f"{path} does not describe a depth tokenizer")
        tokenizer = cls(parse_config(DepthTokenizerConfig, values, path))
        load_weights(tokenizer, path.with_name("model.safetensors"))
        return tokenizer.eval()


def load_tokenizer(folder: str | Path) -> DepthTokenizer:
    """Read a saved depth tokenizer, ready to encode and decode; see :meth:`DepthTokenizer.load`."""
    return DepthTokenizer.load(Path(folder))


class _Residual(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(
            nn.GroupNorm(min(8, width // 4), width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(min(8, width // 4), width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _encoder(widths: list[int], code_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for level, (before, after) in enumerate(zip([1, *widths], widths, strict=False)):
        layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
        layers.append(_Residual(after) if level >= len(widths) - 2 else nn.SiLU())
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], code_dim, 1))


def _decoder(widths: list[int], code_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(code_dim, widths[0], 3, padding=1)]
    for level, (before, after) in enumerate(zip(widths, [*widths[1:], 1], strict=True)):
        layers.append(_Residual(before) if level < 2 else nn.SiLU())
        layers += [nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)
