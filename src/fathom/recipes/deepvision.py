"""DeepVision-VLA (arXiv 2603.15618): at its full size, from scratch on Meta-World, and at the quickstart's.

The paper gives neither learning rate nor batch size: these are our choice. From imported weights, what was trained
before (Qwen3-VL, DINOv3) learns at a tenth of the rate of what is new. The paper's baseline is the same with
`--policy.expert none`; its other ways of fusion, guides and choices of layers are fields of `--policy.expert`.
"""

from dataclasses import dataclass, field, replace

from fathom.policies.deepvision_vla import DeepVisionVLAConfig, ExpertConfig, PruningConfig, TowerConfig
from fathom.policies.qdepth_vla import DepthConfig
from fathom.training.config import GroupScales, OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe


@dataclass(frozen=True)
class DeepVisionRecipe(PolicyRecipe):
    """A DeepVision-VLA and how it is trained; what is not named here is as in :class:`PolicyRecipe`.

    Attributes:
        policy: sizes and choices.
    """

    policy: DeepVisionVLAConfig = field(default_factory=DeepVisionVLAConfig)  # type: ignore[assignment]


def deepvision_libero() -> DeepVisionRecipe:
    """Qwen3-VL-4B and DINOv3 ViT-H+/16 on LIBERO, from imported weights (`--init`)."""
    return DeepVisionRecipe(
        policy=DeepVisionVLAConfig(),
        training=TrainingConfig(
            epochs=50,
            batch_size=256,
            micro_batch=32,
            precision="bf16",
            in_memory=False,
            workers=8,
            checkpoint_every=500,
            optimizer=OptimizerConfig(
                lr=1e-4, warmup_steps=200, cycle_steps=100_000, scale=GroupScales(vlm=0.1, vision=0.1)
            ),
        ),
        depth_weight=0.0,
    )


def deepvision_metaworld() -> DeepVisionRecipe:
    """From scratch on Meta-World's demonstrations, 36 million parameters: for an accelerator."""
    policy = DeepVisionVLAConfig(
        horizon=8,
        vision=TowerConfig(
            width=256, mlp=768, layers=6, heads=4, image_size=128, patch=8, merge=2, position_grid=16, deepstack=(1, 3)
        ),
        vlm_width=384,
        vlm_mlp=1024,
        layers=12,
        heads=8,
        kv_heads=4,
        head_dim=48,
        text_tokens=12,
        prompt="plain",
        expert=ExpertConfig(
            width=256,
            mlp=768,
            layers=8,
            heads=4,
            image_size=256,
            patch=16,
            coupled=5,
            kv_heads=4,
            bias=0.0,
            pruning=PruningConfig(first_layer=2),
        ),
        depth_width=256,
        depth_mlp=512,
        proprio=True,
    )
    return DeepVisionRecipe(policy, _from_scratch(steps=10_000, batch_size=128, lr=5e-4), depth_weight=0.0)


def deepvision_quickstart() -> DeepVisionRecipe:
    """All of the paper's parts at a size that two CPU cores train: the quickstart's data, two million parameters."""
    policy = DeepVisionVLAConfig(
        horizon=8,
        vision=TowerConfig(
            width=128, mlp=256, layers=3, heads=4, image_size=64, patch=8, merge=1, position_grid=8, deepstack=(0, 1)
        ),
        vlm_width=128,
        vlm_mlp=256,
        layers=6,
        heads=4,
        kv_heads=2,
        head_dim=32,
        text_tokens=12,
        prompt="plain",
        expert=ExpertConfig(
            width=96,
            mlp=192,
            layers=4,
            heads=4,
            image_size=128,
            patch=8,
            coupled=3,
            kv_heads=2,
            bias=0.0,
            pruning=PruningConfig(first_layer=1),
        ),
        depth_width=80,  # so that a depth expert has as many parameters as the quickstart's own
        depth_mlp=160,
        proprio=True,
    )
    return DeepVisionRecipe(policy, _from_scratch(steps=950, batch_size=64, lr=1e-3, ema_decay=0.995), depth_weight=0.0)


def deepvision_depth_quickstart() -> DeepVisionRecipe:
    """Both at once, which neither paper has: a depth expert and a vision expert on one language model."""
    recipe = deepvision_quickstart()
    policy = replace(recipe.policy, depth=DepthConfig(grid=16, image_size=128))
    return replace(recipe, policy=policy, depth_weight=0.1)


def _from_scratch(*, steps: int, batch_size: int, lr: float, ema_decay: float = 0.999) -> TrainingConfig:
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        ema_decay=ema_decay,
        optimizer=OptimizerConfig(lr=lr, warmup_steps=min(200, steps // 10), cycle_steps=steps, final_share=0.01),
    )
