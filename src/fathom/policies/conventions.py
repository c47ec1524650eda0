"""The two families of conventions among open versions of pi-zero, each as one frozen value."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.policies.flow import Flow


@dataclass(frozen=True)
class TimeEmbedding:
    """Sines and cosines of the flow time: ``angle = scale * time / period``, periods spaced geometrically."""

    scale: float
    min_period: float
    max_period: float

    def __call__(self, time: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
        """Embed in fp64 (the angles reach 1500 rad) and return fp32."""
        place = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=time.device)
        period = self.min_period * (self.max_period / self.min_period) ** place
        angle = self.scale * time.double()[:, None] / period
        return torch.cat([angle.sin(), angle.cos()], -1).float()


@dataclass(frozen=True)
class Conventions:
    """What differs between code bases that mean the same model.

    Attributes:
        flow: direction and remaining noise.
        time_embedding: see :class:`TimeEmbedding`.
        time_first: the action encoder reads [time, action] rather than [action, time].
        scale_experts: multiply the experts' input embeddings by the root of their width, as Gemma does with text.
        suffix_restarts: proprio and actions count positions 1, 2, … anew, and the prefix counts its padding; otherwise
            positions count valid tokens only, from 0, and run on from prefix to suffix.
    """

    flow: Flow
    time_embedding: TimeEmbedding
    time_first: bool
    scale_experts: bool
    suffix_restarts: bool

    def prefix_positions(self, valid: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
        """Positions of the image and text tokens."""
        if self.suffix_restarts:
            return count(valid)
        return (valid.long().cumsum(1) - 1).clamp(min=0)

    def suffix_positions(
        self, prefix_valid: Bool[Tensor, "batch prefix"], length: int
    ) -> Int[Tensor, "batch {length}"]:
        """Positions of the proprio token and the action tokens behind it."""
        suffix = count(prefix_valid.new_ones(len(prefix_valid), length))
        return suffix if self.suffix_restarts else suffix - 1 + prefix_valid.long().sum(1, keepdim=True)


def count(tokens: Tensor) -> Int[Tensor, "batch tokens"]:
    """Positions 1, 2, … for every token of a (batch, tokens) tensor."""
    return torch.arange(1, tokens.shape[1] + 1, device=tokens.device).expand(tokens.shape[0], -1)


CONVENTIONS = {
    "open_pi_zero": Conventions(
        flow=Flow(data_time=1, sigma_min=0.001),
        time_embedding=TimeEmbedding(scale=1.0, min_period=1.0, max_period=10_000.0),
        time_first=True,
        scale_experts=True,
        suffix_restarts=True,
    ),
    "openpi": Conventions(
        flow=Flow(data_time=0),
        time_embedding=TimeEmbedding(scale=2 * math.pi, min_period=0.004, max_period=4.0),
        time_first=False,
        scale_experts=False,
        suffix_restarts=False,
    ),
}
"""By name: ``open_pi_zero`` (the paper's base) and ``openpi`` (openpi and lerobot)."""
