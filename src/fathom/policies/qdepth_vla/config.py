"""The sizes and choices of a QDepth-VLA."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from transformers import GemmaConfig, SiglipVisionConfig

from fathom.mixture import Backend, Visibility
from fathom.policies.conventions import CONVENTIONS, Conventions
from fathom.policies.depth_expert import DepthConfig
from fathom.policies.sizes import check_positive

VISIBILITY = {
    "hybrid": Visibility(
        {
            "image": "image text",
            "text": "image text",
            "depth": "image text depth",
            "proprio": "image text proprio",
            "action": "image text depth proprio action",
        }
    ),
    "dreamvla": Visibility(
        {
            "image": "image text",
            "text": "image text",
            "depth": "image text depth",
            "proprio": "image text depth proprio",
            "action": "image text depth proprio action",
        }
    ),
    "within_modality": Visibility(
        {
            "image": "image",
            "text": "text",
            "depth": "image text depth",
            "proprio": "image text proprio",
            "action": "image text depth proprio action",
        }
    ),
}
VISIBILITY["unread"] = Visibility({**VISIBILITY["hybrid"].reads, "action": "image text proprio action"})
VISIBILITY["by_proprio"] = Visibility({**VISIBILITY["dreamvla"].reads, "action": "image text proprio action"})
VISIBILITY["pi0"] = VISIBILITY["hybrid"].without("depth")
"""Who reads whom, by name. ``hybrid``: the paper's Figure 1b; ``dreamvla``: its ablation, proprio reads depth too;
``within_modality``: image and text each read only themselves; ``pi0``: no depth. For a sweep of who reads depth:
``unread``: nobody, depth teaches the image encoder alone; ``by_proprio``: proprio, and the actions only through it."""


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP encoder; the defaults are So400m/14 at 224 px (paper, Table 1).

    Attributes:
        width: of its tokens.
        mlp: width of its MLPs.
        layers: how many.
        heads: of its attention.
        image_size: side of the square picture it sees, in pixels.
        patch: side of the patch that becomes one token.
        norm_eps: of its layer norms.
    """

    width: int = 1152
    mlp: int = 4304
    layers: int = 27
    heads: int = 16
    image_size: int = 224
    patch: int = 14
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_positive(self, "width mlp layers heads image_size patch")
        if self.width % self.heads:
            raise ValueError(f"vision.width {self.width} must be a multiple of vision.heads {self.heads}")

    @property
    def grid(self) -> int:
        """Image tokens along one side."""
        return self.image_size // self.patch

    def siglip(self) -> SiglipVisionConfig:
        """The same as transformers says it."""
        return SiglipVisionConfig(
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            image_size=self.image_size,
            patch_size=self.patch,
            layer_norm_eps=self.norm_eps,
            vision_use_head=False,
            # On a CPU sdpa's backward is the slower one: see `fathom.mixture.attention`.
            attn_implementation="sdpa" if torch.cuda.is_available() else "eager",  # type: ignore[call-arg]
        )


@dataclass(frozen=True)
class QDepthVLAConfig:
    """A QDepth-VLA; the defaults are the paper's (Table 1), on PaliGemma-3B.

    Attributes:
        state_dim: numbers of proprio; those of a robot with fewer are padded with zeros.
        action_dim: numbers of one action; likewise.
        horizon: actions in a chunk (paper: 4 in simulation, 16 on the real arm; openpi: 50).
        cameras: views in the order of their tokens; depth is predicted for the first, ``main``.
        vision: the image encoder.
        vlm_width: of the language model's tokens (Gemma-2B: 2048).
        vlm_mlp: width of its MLPs.
        expert_width: of the depth and the action expert's tokens (paper, Table 1: 1024).
        expert_mlp: width of their MLPs (paper, Table 1: 4096).
        layers: of every stream; they meet in each (paper, Table 1: 18).
        heads: of the attention that all streams share.
        kv_heads: keys and values that the heads share.
        head_dim: of one head.
        norm_eps: of the streams' norms.
        rope_theta: of the language model's rotary positions.
        expert_rope_theta: of the experts' (open-pi-zero: 10000 as released, 100 in its configuration files).
        vocab_size: of the text tokenizer.
        text_tokens: of the instruction, padding included (open-pi-zero: 20; openpi: 48).
        depth: the depth expert; ``none`` is the open pi-zero baseline.
        conventions: ``open_pi_zero`` (the paper's base) or ``openpi`` (openpi and lerobot).
        time_max_period: of the flow time's embedding, where it is not the convention's (open-pi-zero: 10000 as
            released, 100 in its configuration files).
        flow_sigma_min: noise left at the flow's end, where it is not the convention's (open-pi-zero: 0.001).
        clip_actions: the finished chunk is clipped to this, before it is put into the robot's units (open-pi-zero's
            ``final_action_clip_value``).
        softcap: cap on the attention logits (open-pi-zero: 50); needs the eager or the flex backend.
        attention: the backend of ``fathom.mixture.attend``; ``auto`` takes the fastest that can do what is asked.
        flow_steps: Euler steps per chunk (paper: 10).
        flow_draws: noises and times drawn per observation in training; more cost only action tokens (our choice).
        blind: replace every image by a grey one: the baseline that shows what sight is worth.
    """

    state_dim: int = 7
    action_dim: int = 7
    horizon: int = 4
    cameras: tuple[str, ...] = ("main",)
    vision: VisionConfig = field(default_factory=VisionConfig)
    vlm_width: int = 2048
    vlm_mlp: int = 16384
    expert_width: int = 1024
    expert_mlp: int = 4096
    layers: int = 18
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    expert_rope_theta: float = 10_000.0
    vocab_size: int = 257_216
    text_tokens: int = 20
    depth: DepthConfig | None = field(default_factory=DepthConfig)
    conventions: Literal["open_pi_zero", "openpi"] = "open_pi_zero"
    time_max_period: float | None = None
    flow_sigma_min: float | None = None
    clip_actions: float | None = None
    softcap: float | None = None
    attention: Backend = "auto"
    flow_steps: int = 10
    flow_draws: int = 1
    blind: bool = False

    def __post_init__(self) -> None:
        if not self.cameras or self.cameras[0] != "main":
            raise ValueError(f"the first camera must be 'main', not {self.cameras}")
        check_positive(self, "state_dim action_dim horizon vlm_width vlm_mlp expert_width expert_mlp layers heads")
        check_positive(self, "kv_heads head_dim vocab_size text_tokens flow_steps flow_draws")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2 or self.expert_width % 2:
            raise ValueError(f"head_dim {self.head_dim} and expert_width {self.expert_width} must be even")
        if self.softcap is not None and (self.softcap <= 0 or self.attention == "sdpa"):
            raise ValueError(f"softcap {self.softcap} must be above 0, and attention 'sdpa' knows none")

    @property
    def image_size(self) -> int:
        """Side of the largest picture that any part sees, in pixels."""
        return self.vision.image_size

    @property
    def stored_size(self) -> int:
        """Side to which pictures can be resized once and for all."""
        return self.vision.image_size

    @property
    def tokens(self) -> dict[str, int]:
        """How many tokens each block of the mixture has."""
        grid = self.vision.grid**2
        counts = {"image": grid * len(self.cameras), "text": self.text_tokens, "depth": grid}
        counts |= {"proprio": 1, "action": self.horizon}
        return {block: counts[block] for block in self.visibility.blocks}

    def choosing_as(self, other: "QDepthVLAConfig") -> "QDepthVLAConfig":
        """These sizes, which belong to the weights, with the other's choices, which can be made for any weights."""
        names = ("horizon", "cameras", "text_tokens", "depth", "attention", "flow_steps", "flow_draws", "blind")
        return replace(self, **{name: getattr(other, name) for name in names})

    @property
    def visibility(self) -> Visibility:
        """Who reads whom."""
        return VISIBILITY[self.depth.visibility if self.depth else "pi0"]

    @property
    def convention(self) -> Conventions:
        """The family's conventions, as far as this configuration does not change them."""
        family = CONVENTIONS[self.conventions]
        time, flow = family.time_embedding, family.flow
        if self.time_max_period is not None:
            time = replace(time, max_period=self.time_max_period)
        if self.flow_sigma_min is not None:
            flow = replace(flow, sigma_min=self.flow_sigma_min)
        return replace(family, time_embedding=time, flow=flow)

    def gemma(self, stream: Literal["vlm", "expert"]) -> GemmaConfig:
        """The language model's or an expert's size, as transformers says it."""
        return GemmaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.vlm_width if stream == "vlm" else self.expert_width,
            intermediate_size=self.vlm_mlp if stream == "vlm" else self.expert_mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            rms_norm_eps=self.norm_eps,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": self.rope_theta if stream == "vlm" else self.expert_rope_theta,
            },
        )
