"""The depth-aware VLM: at full size on a published VLM, and small enough to be trained from nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from fathom.depth.depth_map import LogRange
from fathom.lora import LoRA
from fathom.training.alignment import AlignRecipe
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.finetune import FinetuneConfig, FinetuneRecipe
from fathom.vlm.config import DepthVLMConfig, Fusion
from fathom.vlm.small import SmallSize
from fathom.vlm.tabletop import TabletopRecipe

_TABLE = LogRange(near=0.3, far=20.0)
"""What is seen of the quickstart's tables."""

FUSIONS: tuple[Fusion, ...] = get_args(Fusion)


def align_image() -> AlignRecipe:
    """The seed's: pictures told apart, lr 1e-4, 5 epochs (SPEC §2)."""
    return AlignRecipe(level="image")


def align_patch() -> AlignRecipe:
    """Patches of one picture told apart, which suits small data (CoMAE)."""
    return AlignRecipe(level="patch")


def finetune_lora(fusion: Fusion) -> FinetuneRecipe:
    """LoRA on a published VLM, batch 16, lr 2e-5, one epoch (SPEC §2)."""
    return FinetuneRecipe(model=DepthVLMConfig(fusion=fusion, lora=LoRA(alpha=32)))


ALIGN_RECIPES: dict[str, Callable[[], AlignRecipe]] = {"image": align_image, "patch": align_patch}
FINETUNE_RECIPES: dict[str, Callable[[], FinetuneRecipe]] = {
    fusion: partial(finetune_lora, fusion) for fusion in FUSIONS
}


@dataclass(frozen=True)
class SpatialQuickstart:
    """Everything that ``fathom vlm quickstart`` does, in numbers.

    Attributes:
        name: ``quickstart`` or ``toy``.
        scenes: what is drawn, and what is asked about it.
        size: of the VLM.
        fusion: what is held against ``none``.
        depth_range: of the scenes' depth.
        base: the VLM's own training, from random weights, on RGB alone.
        align: of the depth encoder, with the base's vision tower.
        training: what every arm, ``none`` too, then gets on top of the base.
    """

    name: str
    scenes: TabletopRecipe
    size: SmallSize
    fusion: Fusion
    depth_range: LogRange
    base: FinetuneConfig
    align: AlignRecipe
    training: FinetuneConfig

    def arm(self, fusion: Fusion) -> FinetuneRecipe:
        """One fusion on the base."""
        return FinetuneRecipe(DepthVLMConfig(fusion=fusion, depth_range=self.depth_range), self.training)


def spatial_quickstart() -> SpatialQuickstart:
    """At most twenty minutes on two cores."""
    return SpatialQuickstart(
        name="quickstart",
        scenes=TabletopRecipe(train=4000, test=100),
        size=SmallSize(width=96, layers=3, vision_width=64, vision_layers=3, patch=8, image=64),
        fusion="concat",
        depth_range=_TABLE,
        base=_tuning(epochs=1.5),
        align=AlignRecipe(level="patch", held_out=0.05, depth_range=_TABLE, training=_aligning(steps=300)),
        training=_tuning(epochs=1.5),
    )


def spatial_toy() -> SpatialQuickstart:
    """The same in a minute, to see that it runs; it has learnt nothing yet."""
    full = spatial_quickstart()
    return replace(
        full,
        name="toy",
        scenes=replace(full.scenes, train=24, test=2),
        size=SmallSize(width=32, layers=1, vision_width=32, vision_layers=2, patch=8, image=32),
        base=replace(full.base, log_every=2),
        align=replace(full.align, held_out=0.2, training=_aligning(steps=4)),
        training=replace(full.training, log_every=2),
    )


def _tuning(*, epochs: float) -> FinetuneConfig:
    return FinetuneConfig(
        epochs=epochs, batch_size=16, lr=1.5e-3, warmup_share=0.05, precision="fp32", checkpoint_every=100
    )


def _aligning(*, steps: int) -> TrainingConfig:
    return TrainingConfig(
        steps=steps,
        batch_size=32,
        precision="fp32",
        checkpoint_every=min(100, steps),
        log_every=min(20, steps),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=min(20, steps), cycle_steps=steps, final_share=0.01),
    )
