"""``fathom import``: checkpoints of other code bases become policies of this one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from fathom.policies.weights import Imported


@dataclass(frozen=True)
class ImportPaliGemma:
    """Make a start for training from PaliGemma, with experts that are yet to be trained."""

    source: tyro.conf.Positional[str]
    """A folder of transformers' PaliGemmaForConditionalGeneration, or a hub id."""

    out: Path
    """The folder to write."""

    depth: Literal["fresh", "none"] = "fresh"
    """Add a depth expert, or none: the baseline without depth."""

    horizon: int = 4
    """Actions in a chunk."""

    state_dim: int = 7
    """Numbers of the robot's state; a robot with fewer is padded."""

    action_dim: int = 7
    """Numbers of one action; a robot with fewer is padded."""

    cameras: tuple[str, ...] = ("main",)
    """Views in the order of their tokens, `main` first."""

    text_tokens: int = 20
    """Tokens of an instruction, padding included."""

    expert_width: int = 1024
    """Width of the depth and the action expert."""

    expert_mlp: int = 4096
    """MLP width of the two."""

    conventions: Literal["open_pi_zero", "openpi"] = "open_pi_zero"
    """What the policy takes over from the code base that it resembles: positions, scaling, time, flow."""

    softcap: float | None = None
    """Cap on the attention logits. PaliGemma has none; open-pi-zero trained with 50."""

    seed: int = 0
    """Of the first values."""

    def run(self) -> None:
        from fathom.errors import UserError
        from fathom.policies.qdepth_vla import QDepthVLAConfig
        from fathom.policies.weights import import_paligemma

        try:
            config = QDepthVLAConfig(
                state_dim=self.state_dim,
                action_dim=self.action_dim,
                horizon=self.horizon,
                cameras=self.cameras,
                text_tokens=self.text_tokens,
                expert_width=self.expert_width,
                expert_mlp=self.expert_mlp,
                conventions=self.conventions,
                softcap=self.softcap,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        _tell(self.out, import_paligemma(self.source, self.out, config, depth=self.depth == "fresh", seed=self.seed))


@dataclass(frozen=True)
class ImportOpenPiZero:
    """Make a policy, or a start for training, from open-pi-zero, which QDepth-VLA builds on."""

    checkpoint: tyro.conf.Positional[Path]
    """A .pt as published, or safetensors."""

    out: Path
    """The folder to write."""

    tokenizer: str | None = None
    """PaliGemma's tokenizer.json, or a folder or hub id with it; by default it is looked for beside the checkpoint."""

    statistics: Path | None = None
    """The dataset statistics (JSON) that it was trained with; without them it is a start for training."""

    config: Path | None = None
    """Its sizes (JSON), if they are not those of the published checkpoints."""

    depth: Literal["fresh", "none"] = "fresh"
    """Add a depth expert that is yet to be trained, or none: open-pi-zero itself, with the same actions."""

    seed: int = 0
    """Of the depth expert's first values."""

    def run(self) -> None:
        from fathom.policies.weights import import_open_pi_zero

        done = import_open_pi_zero(
            self.checkpoint,
            self.out,
            tokenizer=self.tokenizer,
            statistics=self.statistics,
            sizes=self.config,
            depth=self.depth == "fresh",
            seed=self.seed,
        )
        _tell(self.out, done)


@dataclass(frozen=True)
class ImportPi0:
    """Make a policy, or a start for training, from π0 as openpi, lerobot or transformers save it."""

    source: tyro.conf.Positional[str]
    """A folder, a safetensors file or a hub id."""

    out: Path
    """The folder to write."""

    tokenizer: str | None = None
    """PaliGemma's tokenizer.json, or a folder or hub id with it; by default it is looked for beside the checkpoint."""

    statistics: Path | None = None
    """openpi's norm_stats.json; by default lerobot's are taken, if they are beside the weights."""

    cameras: tuple[str, ...] = ("main",)
    """Views in the order in which the checkpoint knows them, `main` first."""

    depth: Literal["fresh", "none"] = "fresh"
    """Add a depth expert that is yet to be trained, or none: π0 itself, with the same actions."""

    seed: int = 0
    """Of the depth expert's first values."""

    def run(self) -> None:
        from fathom.policies.weights import import_pi0

        done = import_pi0(
            self.source,
            self.out,
            tokenizer=self.tokenizer,
            statistics=self.statistics,
            cameras=self.cameras,
            depth=self.depth == "fresh",
            seed=self.seed,
        )
        _tell(self.out, done)


@dataclass(frozen=True)
class ImportQwen3VL:
    """Make a start for training a DeepVision-VLA from Qwen3-VL and DINOv3."""

    source: tyro.conf.Positional[str]
    """A folder of transformers' Qwen3VLForConditionalGeneration, or a hub id."""

    out: Path
    """The folder to write."""

    vision: str | None = None
    """A folder of transformers' DINOv3ViTModel, or a hub id; without it the start is the baseline, QwenVLA-OFT, to be
    trained with `--policy.expert none`: else its vision expert begins at random."""

    fusion: Literal["mot", "early", "aligned"] = "mot"
    """How the vision expert reaches the language model; `mot` is the paper's shared attention."""

    coupled: int = 16
    """Layers of the vision expert that meet as many of the language model's last ones."""

    which: Literal["last", "uniform", "first"] = "last"
    """Which of its layers these are."""

    kv_heads: int | None = None
    """Key heads that its keys are mapped to: as many as the language model has key heads (the default), or heads."""

    bias: float = -10.0
    """First value of the number that is added to the language model's logits for the expert's tokens, and learned."""

    image_size: int = 256
    """Side of the picture that the language model's own tower sees, in pixels."""

    expert_image_size: int = 512
    """Side of the picture that the vision expert sees, in pixels."""

    proprio: bool = False
    """Also read the robot's state (the paper does not)."""

    horizon: int = 8
    """Actions in a chunk."""

    state_dim: int = 7
    """Numbers of the robot's state; a robot with fewer is padded."""

    action_dim: int = 7
    """Numbers of one action; a robot with fewer is padded."""

    cameras: tuple[str, ...] = ("main",)
    """Views in the order of their tokens, `main` first."""

    text_tokens: int = 48
    """Tokens of an instruction with what Qwen's template puts behind it, padding included."""

    seed: int = 0
    """Of the first values."""

    def run(self) -> None:
        from fathom.errors import UserError
        from fathom.policies.deepvision_vla import DeepVisionVLAConfig, ExpertConfig, TowerConfig
        from fathom.policies.weights import import_qwen3_vl

        try:
            expert = ExpertConfig(
                fusion=self.fusion,
                coupled=self.coupled,
                which=self.which,
                bias=self.bias,
                image_size=self.expert_image_size,
                pruning=None,  # a choice of the training's recipe
            )
            config = DeepVisionVLAConfig(
                state_dim=self.state_dim,
                action_dim=self.action_dim,
                horizon=self.horizon,
                cameras=self.cameras,
                text_tokens=self.text_tokens,
                vision=TowerConfig(image_size=self.image_size),
                expert=expert,
                proprio=self.proprio,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        done = import_qwen3_vl(self.source, self.vision, self.out, config, kv_heads=self.kv_heads, seed=self.seed)
        _tell(self.out, done)
        if self.vision is None:
            print("it has no vision expert: train it with --policy.expert none, or one begins at random")


def _tell(out: Path, done: "Imported") -> None:
    print("\n".join([*done.lines, f"written to {out}"]))
