"""The whole loop on Meta-World, at a size that two CPU cores train in minutes.

Why these numbers: docs/quickstart.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizerConfig
from fathom.evaluation import Protocol
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLAConfig, VisionConfig
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe
from fathom.training.tokenizer import TokenizerRecipe

TASKS = ("faucet-open", "faucet-close", "drawer-open", "button-press-topdown", "button-press", "coffee-button")

SPREAD = 0.16


@dataclass(frozen=True)
class QuickstartRecipe:
    """Everything that the quickstart does, in numbers.

    Attributes:
        name: ``quickstart`` or ``toy``.
        tasks: Meta-World tasks; faucet-open and faucet-close share one scene, so that only the instruction decides.
        episodes_per_task: demonstrations to keep of each task.
        spread: how far objects are scattered, in demonstrations and evaluation: wide enough that sight decides.
        tokenizer, policy: what is trained, and how.
        protocol: how it is evaluated.
    """

    name: str
    tasks: tuple[str, ...]
    episodes_per_task: int
    spread: float
    tokenizer: TokenizerRecipe
    policy: PolicyRecipe
    protocol: Protocol

    def baseline(self, kind: Literal["pi0", "blind"]) -> PolicyRecipe:
        """The same policy without depth (open pi-zero), or with depth but without sight."""
        if kind == "pi0":
            return replace(self.policy, policy=replace(self.policy.policy, depth=None))
        return replace(self.policy, policy=replace(self.policy.policy, blind=True))


def quickstart() -> QuickstartRecipe:
    """The full quickstart."""
    return QuickstartRecipe(
        name="quickstart",
        tasks=TASKS,
        episodes_per_task=60,
        spread=SPREAD,
        tokenizer=TokenizerRecipe(
            tokenizer=DepthTokenizerConfig(image_size=128, grid=16, width=64, depth_range=LogRange(0.35, 2.0)),
            training=_training(steps=400, batch_size=32, lr=1e-3, ema_decay=0.0),
        ),
        policy=quickstart_policy(),
        protocol=Protocol("metaworld", TASKS, episodes=20, execute=2, options={"spread": SPREAD}),
    )


def quickstart_policy() -> PolicyRecipe:
    """The quickstart's QDepth-VLA: all of the paper's parts, two million parameters."""
    return PolicyRecipe(
        policy=QDepthVLAConfig(
            horizon=8,
            vision=VisionConfig(width=128, mlp=256, layers=3, heads=4, image_size=64, patch=8),
            vlm_width=128,
            vlm_mlp=256,
            expert_width=96,
            expert_mlp=192,
            layers=4,
            heads=4,
            head_dim=32,
            text_tokens=12,
            depth=DepthConfig(grid=16, image_size=128),
            conventions="openpi",
            flow_draws=4,
        ),
        training=_training(steps=950, batch_size=64, lr=1e-3, ema_decay=0.995),
        depth_weight=0.1,
    )


def quickstart_toy() -> QuickstartRecipe:
    """The same loop in a minute or two, to see that it runs; its policy has learnt nothing yet."""
    full, tasks, codes = quickstart(), TASKS[:2], 32
    return replace(
        full,
        name="toy",
        tasks=tasks,
        episodes_per_task=3,
        tokenizer=TokenizerRecipe(
            tokenizer=replace(full.tokenizer.tokenizer, codes=codes),
            training=_training(steps=30, batch_size=16, lr=1e-3, ema_decay=0.0),
        ),
        policy=replace(
            full.policy,
            policy=replace(full.policy.policy, depth=DepthConfig(grid=16, image_size=128, codes=codes)),
            training=_training(steps=40, batch_size=8, lr=1e-3, ema_decay=0.995),
        ),
        protocol=replace(full.protocol, tasks=tasks, episodes=2),
    )


def _training(*, steps: int, batch_size: int, lr: float, ema_decay: float) -> TrainingConfig:
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        ema_decay=ema_decay,
        checkpoint_every=min(200, steps // 4),
        optimizer=OptimizerConfig(lr=lr, warmup_steps=min(50, steps // 10), cycle_steps=steps, final_share=0.01),
    )
