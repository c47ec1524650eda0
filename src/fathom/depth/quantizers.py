"""What stands between the tokenizer's encoder and its decoder: the ways to make a depth picture's vectors learnable.

Each module has ``bottleneck``, which training uses: from the encoder's output to what the decoder reads, with the terms
that the loss gains. Those with codes have a ``codebook`` and ``indices`` besides.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, VectorQuantize

from fathom.errors import UserError

# A code that is used less often than this per batch, on a running average, is replaced by a vector of the encoder's.
DEAD_BELOW = 2
# How much of a running average is left after a step: of how often a code is used and, with `ema`, of the code itself.
DECAY = 0.99

# The library's defaults differ from the paper's and from one version to the next. Its own losses are off: they weight
# codebook and commitment alike, the terms of equation 2 are in `bottleneck`.
_SETTINGS: dict[str, Any] = {
    "accept_image_fmap": True,
    "heads": 1,
    "use_cosine_sim": False,
    "stochastic_sample_codes": False,
    "straight_through": False,  # that of Gumbel samples; the plain one is what is left when all others are off
    "rotation_trick": False,
    "commitment_weight": 0.0,
    "kmeans_init": True,
    "kmeans_iters": 10,
    "eps": 1e-5,
    "decay": DECAY,
    "threshold_ema_dead_code": DEAD_BELOW,
}

Terms = dict[str, Tensor]
"""Unweighted terms of the loss, each a mean over elements, by their names in ``TokenizerLosses``."""


class VectorQuantizer(VectorQuantize):
    """Each vector becomes the nearest entry of a learned codebook (the paper's VQ-VAE, equations 1 and 2).

    Attributes:
        moving_average: whether codes follow their vectors by a running mean, not by gradients.
    """

    moving_average = False

    def __init__(self, code_dim: int, codes: int) -> None:
        super().__init__(
            dim=code_dim,
            codebook_size=codes,
            learnable_codebook=not self.moving_average,
            ema_update=self.moving_average,
            **_SETTINGS,
        )

    @property
    def uses(self) -> Float[Tensor, " codes"]:
        """How often each code occurs in a batch, on a running mean."""
        return self._codebook.cluster_size.flatten()

    def bottleneck(self, encoded: Float[Tensor, "batch code_dim grid grid"]) -> tuple[Tensor, Terms]:
        """The codes, straight through, and the two last terms of equation 2."""
        if not encoded.isfinite().all():
            return _passed(encoded, "codebook", "commitment")
        straight_through, indices, _ = self(encoded)
        code = self.codebook[indices].movedim(-1, 1)
        return straight_through, {
            "codebook": F.mse_loss(code, encoded.detach()),
            "commitment": F.mse_loss(encoded, code.detach()),
        }

    def indices(self, vectors: Float[Tensor, "batch tokens code_dim"]) -> Int[Tensor, "batch tokens"]:
        """The nearest code of each vector (equation 1)."""
        return torch.cdist(vectors, self.codebook[None]).argmin(-1)


class MovingAverageQuantizer(VectorQuantizer):
    """The same, but each code is a running mean of the vectors that it stands for, in place of the codebook term.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning" (arXiv 1711.00937), appendix A.1.
    """

    moving_average = True

    def bottleneck(self, encoded: Float[Tensor, "batch code_dim grid grid"]) -> tuple[Tensor, Terms]:
        """The codes, straight through, and the commitment term; in training the codes then move on."""
        if not encoded.isfinite().all():
            return _passed(encoded, "commitment")
        with torch.autocast(encoded.device.type, enabled=False):  # sums over thousands of vectors need fp32
            encoded = encoded.float()
            straight_through, indices, _ = self(encoded, freeze_codebook=True)
            code = self.codebook[indices].movedim(-1, 1)
            if self.training:
                self.update_indices(encoded.detach(), indices)
            return straight_through, {"commitment": F.mse_loss(encoded, code)}


class ScalarQuantizer(FSQ):
    """Each vector is projected to a few numbers, and each of those rounded to one of its levels: FSQ.

    There is no codebook to learn or to collapse: the codes are all combinations of levels, projected back.
    Source: Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv 2309.15505).
    """

    def __init__(self, code_dim: int, levels: tuple[int, ...]) -> None:
        super().__init__(levels=list(levels), dim=code_dim)

    @property
    def codebook(self) -> Float[Tensor, "codes code_dim"]:
        """The vector that the decoder reads for each code."""
        return self.project_out(self.implicit_codebook)

    def bottleneck(self, encoded: Float[Tensor, "batch code_dim grid grid"]) -> tuple[Tensor, Terms]:
        """The rounded vectors, straight through; no term is needed."""
        return self(encoded)[0], {}

    def indices(self, vectors: Float[Tensor, "batch tokens code_dim"]) -> Int[Tensor, "batch tokens"]:
        """The code to which each vector is rounded."""
        return self(vectors)[1].long()


class Gaussian(nn.Module):
    """No codes: a mean and a log-variance for each number, drawn from in training (a continuous VAE).

    Source: Kingma and Welling 2013, "Auto-Encoding Variational Bayes" (arXiv 1312.6114).
    """

    @property
    def codebook(self) -> Float[Tensor, "codes code_dim"]:
        """Refused: see :meth:`indices`."""
        raise _no_codes()

    def bottleneck(self, encoded: Float[Tensor, "batch twice_code_dim grid grid"]) -> tuple[Tensor, Terms]:
        """A draw in training, else the mean; and the divergence from a standard normal distribution, in nats."""
        mean, log_variance = encoded.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)  # the exponential of either end is still a finite number
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        drawn = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        return drawn, {"kl": divergence}

    def indices(self, vectors: Float[Tensor, "batch tokens twice_code_dim"]) -> Int[Tensor, "batch tokens"]:
        """Refused.

        Raises:
            UserError: always.
        """
        raise _no_codes()


def _no_codes() -> UserError:
    return UserError(
        "this depth tokenizer is a continuous VAE (quantizer 'none') and has no codes: "
        "use its latents, or train a tokenizer with quantizer 'vq', 'ema' or 'fsq'"
    )


def _passed(encoded: Tensor, *terms: str) -> tuple[Tensor, Terms]:
    """Vectors that are no numbers leave the codes alone: a step that is skipped must not have changed them."""
    return encoded, dict.fromkeys(terms, encoded.mean())
