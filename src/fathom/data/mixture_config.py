"""What a mixture of datasets is made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from pydantic import ConfigDict
from torch import Tensor

from fathom.data.normalization import NormalizationKind, Scaling
from fathom.errors import UserError


@dataclass(frozen=True)
class VectorMap:
    """Which numbers of a dataset's vector are taken, in the mixture's order.

    Attributes:
        components: their places in the dataset's vector; ``None`` for all of them.
        flip: names those, by their places in the mixture, whose sign is turned after normalisation: −1 and 1 change
            places, as for a gripper that counts from closed to open where the others count from open to closed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    components: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()

    def scaling(self, own: Scaling, what: str) -> Scaling:
        """The dataset's own scaling, of the components that are taken; a flip is a negative scale.

        Raises:
            UserError: a component is not there.
        """
        size = len(own.offset)
        chosen = tuple(range(size)) if self.components is None else self.components
        for places, limit, name in ((chosen, size, "components"), (self.flip, len(chosen), "flip")):
            if wrong := [place for place in places if not 0 <= place < limit]:
                raise UserError(
                    f"{what}: {name} names number {wrong[0]}, but there are only {limit} (0 … {limit - 1})."
                )
        signs = [-1.0 if place in self.flip else 1.0 for place in range(len(chosen))]
        scale = tuple(sign * own.scale[place] for sign, place in zip(signs, chosen, strict=True))
        return Scaling(tuple(own.offset[place] for place in chosen), scale, own.clip)

    def take(self, values: Float[Tensor, "*batch own"]) -> Float[Tensor, "*batch size"]:
        """The components of ``values`` (…, size) that are taken."""
        return values if self.components is None else values[..., list(self.components)]


@dataclass(frozen=True)
class MixturePart:
    """One dataset of a mixture.

    Attributes:
        path: its folder.
        weight: its share of the samples, relative to the weights of the others.
        cameras: for each camera of the mixture, the dataset's camera that takes this role.
        depth: the depth feature of ``main``, where the mixture has depth.
        state: which of its state's numbers are taken.
        actions: which of its action's numbers are taken.
        split: only the episodes of this split.
        name: what the dataset is called; by default its folder's name.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str
    weight: float = 1.0
    cameras: Mapping[str, str] = field(default_factory=lambda: {"main": "main"})
    depth: str = "main_depth"
    state: VectorMap = VectorMap()
    actions: VectorMap = VectorMap()
    split: str | None = None
    name: str = ""


@dataclass(frozen=True)
class MixtureConfig:
    """A mixture of datasets.

    Attributes:
        horizon: length of the window of actions.
        image_size: side of the square to which all pictures are resized.
        depth_size: side of the square to which depth is resized, without mixing neighbours; ``None`` for no depth.
        normalization: see :class:`~fathom.data.normalization.Normalization`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    parts: tuple[MixturePart, ...]
    horizon: int = 1
    image_size: int = 224
    depth_size: int | None = None
    normalization: NormalizationKind = "quantile"


def check_parts(config: MixtureConfig, parts: Sequence[MixturePart]) -> None:
    """Refuse what is wrong before any dataset is opened."""
    if not parts:
        raise UserError("a mixture needs at least one dataset; name it in parts.")
    if config.image_size < 1 or (config.depth_size is not None and config.depth_size < 1):
        raise UserError(f"image_size {config.image_size}, depth_size {config.depth_size}: a picture needs a pixel.")
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two datasets of the mixture are called {twice[0]!r}; give each a name of its own.")
    first = parts[0]
    for part in parts:
        if not (math.isfinite(part.weight) and part.weight > 0):
            raise UserError(
                f"{part.name}: weight {part.weight} should be a number above 0; leave the dataset out instead."
            )
        if part.cameras.keys() != first.cameras.keys() or "main" not in part.cameras:
            ours, theirs = (", ".join(p.cameras) or "none" for p in (part, first))
            raise UserError(
                f"{part.name} gives the cameras {ours}, {first.name} gives {theirs}: all datasets of a mixture need "
                "the same cameras, with main; leave out those that one does not have."
            )
