"""Where the tokens of a policy are that show the picture, those that say what to do, and those that act."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fathom.errors import UserError
from fathom.mixture import AlignedStream, Mixture, Pass
from fathom.policies import Policy
from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig
from fathom.policies.qdepth_vla import QDepthVLA

CAMERA = "main"
"""The camera whose picture is analysed: the one that every policy has, and that a segmentation belongs to."""

ACTION = "action"
"""The block of the action tokens, in every policy."""


@dataclass(frozen=True)
class Grid:
    """Tokens that stand for the places of the picture, row by row.

    Attributes:
        name: ``image`` for those of the language model, ``expert`` for a vision expert's, ``depth`` for a depth
            expert's.
        block: the block that they are part of.
        first: the place of the first of them in the block.
        side: tokens along one side.
    """

    name: str
    block: str
    first: int
    side: int

    @property
    def tokens(self) -> slice:
        """Their places in the block."""
        return slice(self.first, self.first + self.side**2)

    def of(self, passing: Pass, values: Float[Tensor, "batch now *width"]) -> Float[Tensor, "batch tokens *width"]:
        """This grid's part of the values of all tokens that the block has now; zeros for those that were dropped."""
        kept = passing.kept(self.block)
        if kept is None:
            return values[:, self.tokens]
        whole = values.new_zeros(len(values), self.tokens.stop, *values.shape[2:])
        return whole.scatter(1, _alike(kept, values).expand_as(values), values)[:, self.tokens]

    def put(self, passing: Pass, values: Shaped[Tensor, "batch tokens *width"]) -> Shaped[Tensor, "batch now *width"]:
        """The reverse: values of this grid's tokens where they stand in the block now, and zeros elsewhere."""
        kept, now = passing.kept(self.block), passing.hidden(self.block).shape[1]
        before, behind = (
            values.new_zeros(len(values), count, *values.shape[2:])
            for count in (self.first, max(0, now - self.tokens.stop))
        )
        whole = torch.cat([before, values, behind], 1)
        return whole if kept is None else torch.take_along_dim(whole, _alike(kept, values), 1)


@dataclass(frozen=True)
class Sight:
    """A policy as the analysis sees it.

    Attributes:
        policy: itself.
        title: what its architecture is called.
        grids: the tokens that show the camera's picture.
        instruction: the block with the instruction, and its place there.
        chunk: the normalised action chunk of the policy's own inputs, starting from noise.
    """

    policy: QDepthVLA | DeepVisionVLA
    title: str
    grids: tuple[Grid, ...]
    instruction: tuple[str, slice]
    chunk: Callable[[Any, Tensor], Float[Tensor, "batch horizon action"]]

    @property
    def mixture(self) -> Mixture:
        """Whose passes are watched."""
        return self.policy.mixture

    @property
    def place_of(self) -> Mapping[int, int]:
        """Where in the plan each layer of the stream runs that carries the actions; what is per layer counts these."""
        own = self.mixture.stream_of[ACTION]
        return {step[own]: place for place, step in enumerate(self.mixture.plan) if own in step}

    def layer_at(self, place: int) -> int | None:
        """The layer that runs at a place of the plan; ``None`` where the actions take no part."""
        return self.mixture.plan[place].get(self.mixture.stream_of[ACTION])

    def reads(self, query: str, grid: Grid) -> bool:
        """Whether the actions, or the instruction, read the tokens of a grid at all."""
        block = ACTION if query == ACTION else self.instruction[0]
        return self.mixture.visibility.sees(block, grid.block)

    def takes_part(self, block: str, place: int) -> bool:
        """Whether a block's tokens are among those that meet there."""
        return self.mixture.stream_of[block] in self.mixture.plan[place]


def sight_of(policy: Policy) -> Sight:
    """The tokens of a policy.

    Raises:
        UserError: it is of a kind whose tokens are not known here, or does not see the camera ``main``.
    """
    if CAMERA not in policy.cameras:
        raise UserError(f"the policy sees {', '.join(policy.cameras)}, and the analysis is of the camera {CAMERA!r}")
    if isinstance(policy, QDepthVLA):
        return _of_qdepth(policy)
    if isinstance(policy, DeepVisionVLA):
        return _of_deepvision(policy)
    kinds = ", ".join((QDepthVLA.kind, DeepVisionVLA.kind))
    raise UserError(
        f"the policy is of kind {policy.kind!r}, and where its tokens are is known for {kinds} alone: describe them in "
        "fathom.analysis.sight"
    )


def _of_qdepth(policy: QDepthVLA) -> Sight:
    side = policy.config.vision.grid
    grids = [Grid("image", "image", policy.cameras.index(CAMERA) * side**2, side)]
    if policy.config.depth:
        grids.append(Grid("depth", "depth", 0, side))
    title = "QDepth-VLA" if policy.config.depth else "open π0"
    return Sight(policy, title, tuple(grids), ("text", slice(None)), policy.chunk)


def _of_deepvision(policy: DeepVisionVLA) -> Sight:
    config, layout, side = policy.config, policy.layout, policy.config.vision.grid
    grids = [Grid("image", "prompt", layout.image(policy.cameras.index(CAMERA)).start, side)]
    if config.depth:
        grids.append(Grid("depth", "depth", 0, side))
    if config.coupling:
        prefix = cast(AlignedStream, policy.mixture.streams["expert"]).own.prefix_tokens
        grids.append(Grid("expert", f"expert_{CAMERA}", prefix, config.coupling.grid))
    text = ("prompt", layout.instruction)
    return Sight(policy, _title(config), tuple(grids), text, lambda inputs, _: policy.chunk(inputs))


def _title(config: DeepVisionVLAConfig) -> str:
    """The paper's names, with what differs from them."""
    expert, coupling = config.expert, config.coupling
    differing = [f"{expert.fusion} fusion"] if expert and not coupling else []
    differing += ["SigLIP"] if expert and expert.encoder == "siglip" else []
    differing += ["depth"] if config.depth else []
    name = "DeepVision-VLA" if coupling else "QwenVLA-OFT"
    return f"{name} with {' and '.join(differing)}" if differing else name


def _alike(index: Tensor, values: Tensor) -> Tensor:
    """The index with as many dimensions as the values."""
    return index.view(*index.shape, *(1,) * (values.dim() - 2))
