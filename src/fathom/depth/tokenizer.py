"""The depth tokenizer: from a depth picture to a grid of codes (or of latent vectors), and back to a picture.

Source: QDepth-VLA (arXiv 2510.14836), section 3.2, equations 1 and 2, for the VQ-VAE; the other kinds stand in for the
"better VAE representations" of its future work.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fathom.config import parse_config, read_json, write_config
from fathom.depth.autoencoder import Decoder, Encoder
from fathom.depth.depth_map import LOWEST, DepthKind, LogRange, valid
from fathom.depth.quantizers import Gaussian, MovingAverageQuantizer, ScalarQuantizer, VectorQuantizer
from fathom.errors import UserError
from fathom.weights import load_weights, save_weights

# What a saved tokenizer's `config.json` says it is.
TYPES = {"vq": "vq_vae", "ema": "vq_vae", "fsq": "fsq_vae", "none": "vae"}


@dataclass(frozen=True)
class DepthTokenizerConfig:
    """The size and kind of the tokenizer; the defaults are the paper's, with [D] where it is silent.

    Attributes:
        image_size: side of the square depth picture, in pixels [D: lines up with 16x16 patches of a 224 px image].
        grid: side of the code grid; the paper uses 16 and tries 32.
        quantizer: ``vq``: a learned codebook (the paper); ``ema``: a codebook of running means (arXiv 1711.00937);
            ``fsq``: finite scalar quantization, whose codes are fixed combinations (arXiv 2309.15505); ``none``: a
            continuous VAE, latent vectors without codes (the paper's future work).
        codes: entries of the codebook, K; with ``fsq`` the product of ``levels``, with ``none`` unused.
        levels: with ``fsq``, how many values each number of a code can take.
        code_dim: dimension of a code or latent vector, d.
        width: channels at the code grid, halved at every doubling of the resolution; residual blocks stand at the
            code grid and at twice its resolution, finer levels are plain convolutions [D].
        commitment: with ``vq`` and ``ema``, the weight beta of the commitment term.
        kl_weight: with ``none``, the weight of the divergence from a standard normal distribution [D: small, as it only
            keeps the latents near unit scale].
        depth_range: the fixed range on which metric depth is put; ``None``: depth is relative inverse depth, which its
            episode has put into (0, 1] already.
    """

    image_size: int = 256
    grid: int = 16
    quantizer: Literal["vq", "ema", "fsq", "none"] = "vq"
    codes: int = 256
    levels: tuple[int, ...] = (8, 6, 5)
    code_dim: int = 160
    width: int = 128
    commitment: float = 0.25
    kl_weight: float = 1e-4
    depth_range: LogRange | None = field(default_factory=lambda: LogRange(0.1, 10.0))

    def __post_init__(self) -> None:
        if min(self.grid, self.codes, self.code_dim) < 1 or self.image_size < 2 * self.grid:
            raise ValueError("grid, codes and code_dim must be at least 1, and image_size at least twice the grid")
        if self.width < 8 or (self.width % 16 and self.width != 8):
            raise ValueError(f"width is {self.width}: it must be 8 or a multiple of 16")
        if self.image_size % self.grid or (self.image_size // self.grid) & (self.image_size // self.grid - 1):
            raise ValueError(f"image_size {self.image_size} must be grid {self.grid} times a power of two")
        if self.quantizer == "fsq":
            self._check_levels()

    def _check_levels(self) -> None:
        if min(self.levels, default=0) < 3:
            raise ValueError(f"levels {self.levels}: there must be some, each of at least 3 values")
        if self.codes != (product := math.prod(self.levels)):
            raise ValueError(
                f"codes is {self.codes}, but levels {self.levels} make {product}: set codes to {product}, or the levels"
            )

    @property
    def has_codes(self) -> bool:
        """Whether a depth picture becomes codes, and not continuous vectors."""
        return self.quantizer != "none"

    @property
    def kind(self) -> DepthKind:
        """What the depth is that goes in and comes out."""
        return "metric" if self.depth_range else "relative_inverse"


@dataclass(frozen=True)
class TokenizerLosses:
    """The terms of the loss, each a mean over elements [D]; ``None`` where the kind of tokenizer has no such term.

    Attributes:
        reconstruction: absolute error of the normalised picture, over valid pixels.
        total: their weighted sum.
        codebook: of ``vq``, equation 2.
        commitment: of ``vq`` and ``ema``, likewise.
        kl: of ``none``, in nats.
    """

    reconstruction: Float[Tensor, ""]
    total: Float[Tensor, ""]
    codebook: Float[Tensor, ""] | None = None
    commitment: Float[Tensor, ""] | None = None
    kl: Float[Tensor, ""] | None = None

    def terms(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {name: term for name, term in vars(self).items() if term is not None}


class DepthTokenizer(nn.Module):
    """Depth picture to code indices, or to latent vectors, and back.

    Depth is metric, or relative inverse depth in (0, 1]: of ``config.kind``; 0 and NaN say that it is not known.
    """

    def __init__(self, config: DepthTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        levels = (config.image_size // config.grid).bit_length() - 1
        widths = [max(8, config.width >> (levels - 1 - level)) for level in range(levels)]
        self.encoder = Encoder(widths, config.code_dim if config.has_codes else 2 * config.code_dim)
        self.decoder = Decoder(config.code_dim, widths[::-1])
        self.quantizer = _quantizer(config)

    @property
    def codebook(self) -> Float[Tensor, "codes code_dim"]:
        """The code vectors, as the decoder reads them.

        Raises:
            UserError: a continuous VAE has none.
        """
        return self.quantizer.codebook

    def loss(self, depth: Float[Tensor, "batch 1 height width"]) -> TokenizerLosses:
        """The loss on depth of any size; invalid pixels do not count in the reconstruction.

        It is equation 2 for ``vq``, without its codebook term for ``ema``, the reconstruction alone for ``fsq``, and
        with the divergence for ``none``.
        """
        target, mask = self.prepare(depth)
        latent, terms = self.quantizer.bottleneck(self.encoder(target))
        error = (self.decoder(latent) - target).abs() * mask
        reconstruction = error.sum() / mask.sum().clamp(min=1)
        weights = {"codebook": 1.0, "commitment": self.config.commitment, "kl": self.config.kl_weight}
        total = reconstruction
        for name, term in terms.items():
            total = total + weights[name] * term
        return TokenizerLosses(reconstruction, total, **terms)

    @torch.no_grad()
    def encode(self, depth: Float[Tensor, "batch 1 height width"]) -> Int[Tensor, "batch tokens"]:
        """Depth of any size to code indices, row by row of the grid (equation 1).

        Raises:
            UserError: a continuous VAE has no codes.
        """
        with torch.autocast(depth.device.type, enabled=False):  # labels do not depend on how a policy computes
            return self.quantizer.indices(self._encoded(depth))

    @torch.no_grad()
    def decode(self, indices: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch 1 size size"]:
        """Code indices to depth.

        Raises:
            UserError: a continuous VAE has no codes.
        """
        return self._picture(self.codebook[indices])

    @torch.no_grad()
    def latents(self, depth: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch tokens code_dim"]:
        """Depth of any size to a continuous VAE's latent vectors (their means), row by row of the grid.

        Raises:
            UserError: the tokenizer has codes instead.
        """
        self._check_continuous()
        with torch.autocast(depth.device.type, enabled=False):
            return self._encoded(depth)[..., : self.config.code_dim]

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "batch tokens code_dim"]) -> Float[Tensor, "batch 1 size size"]:
        """A continuous VAE's latent vectors to depth.

        Raises:
            UserError: the tokenizer has codes instead.
        """
        self._check_continuous()
        return self._picture(latents)

    def reconstruct(self, depth: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 size size"]:
        """Depth of any size, through codes or latents, and back."""
        return self.decode(self.encode(depth)) if self.config.has_codes else self.decode_latents(self.latents(depth))

    def prepare(
        self, depth: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch 1 size size"], Float[Tensor, "batch 1 size size"]]:
        """Depth as the encoder sees it: in [0, 1] at the tokenizer's size, and where it is valid (0 or 1).

        Metres are put on the tokenizer's range, relative inverse depth is there already. Depth is sampled at the
        nearest pixel: a mean of a near and a far surface would be a surface that is not there.
        """
        size = (self.config.image_size,) * 2
        depth = depth.float()
        if depth.shape[-2:] != size:
            depth = F.interpolate(depth, size, mode="nearest-exact")
        scale = self.config.depth_range
        picture = scale.normalize(depth) if scale else depth.nan_to_num(nan=0.0).clamp(0, 1)
        return picture, valid(depth).float()

    def depth_of(self, picture: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch 1 size size"]:
        """A picture like :meth:`prepare`'s back to depth; every pixel of it is known, so none becomes 0."""
        scale = self.config.depth_range
        return scale.denormalize(picture.clamp(0, 1)) if scale else picture.clamp(LOWEST, 1)

    def true_depth(self, depth: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 size size"]:
        """What a perfect reconstruction would be: at the tokenizer's size, within its range; NaN where not known."""
        picture, known = self.prepare(depth)
        return self.depth_of(picture).where(known > 0, torch.nan)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, folder / "model.safetensors")
        write_config(self.config, folder / "config.json", type=TYPES[self.config.quantizer])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: there is no tokenizer in the folder, or its weights do not fit its configuration.
        """
        path = Path(folder) / "config.json"
        values = read_json(path, "depth tokenizer")
        if values.pop("type", None) not in TYPES.values():
            raise UserError(f"{path} does not describe a depth tokenizer")
        tokenizer = cls(parse_config(DepthTokenizerConfig, values, path))
        load_weights(tokenizer, path.with_name("model.safetensors"))
        return tokenizer.eval()

    def _encoded(self, depth: Tensor) -> Float[Tensor, "batch tokens channels"]:
        return self.encoder(self.prepare(depth)[0]).flatten(2).mT

    def _picture(self, vectors: Float[Tensor, "batch tokens code_dim"]) -> Float[Tensor, "batch 1 size size"]:
        latent = vectors.mT.unflatten(2, (self.config.grid, self.config.grid))
        return self.depth_of(self.decoder(latent))

    def _check_continuous(self) -> None:
        if self.config.has_codes:
            raise UserError(
                f"this depth tokenizer has codes (quantizer {self.config.quantizer!r}) and no latents: "
                "use its codes, or train a tokenizer with quantizer 'none'"
            )


def load_tokenizer(folder: str | Path) -> DepthTokenizer:
    """Read a saved depth tokenizer, ready to encode and decode; see :meth:`DepthTokenizer.load`."""
    return DepthTokenizer.load(Path(folder))


def _quantizer(config: DepthTokenizerConfig) -> VectorQuantizer | ScalarQuantizer | Gaussian:
    match config.quantizer:
        case "vq":
            return VectorQuantizer(config.code_dim, config.codes)
        case "ema":
            return MovingAverageQuantizer(config.code_dim, config.codes)
        case "fsq":
            return ScalarQuantizer(config.code_dim, config.levels)
        case "none":
            return Gaussian()
