"""The sizes and choices of a QDepth-VLA."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from transformers import GemmaConfig, SiglipVisionConfig

from fathom.mixture import Backend, Visibility
from fathom.policies.conventions import CONVENTIONS, Conventions

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
        _check_positive(self, "width mlp layers heads image_size patch")
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
class DepthConfig:
    """The depth expert and its target.

    Attributes:
        target: ``codes``: cross-entropy of the tokenizer's codes (the paper); ``pixels``: regression of the depth
            picture (the paper's ablation, Table 6); ``latents``: regression of a continuous VAE's latent
            vectors (the paper's future work).
        grid: side of the grid of depth tokens: that of the image tokens, or twice as many (paper: 16; 32 tried).
        codes: entries of the depth tokenizer's codebook (paper: 256).
        code_dim: their dimension, or that of the latent vectors (paper: 160).
        image_size: side of the depth picture that the tokenizer works on, in pixels.
        temperature: tau of the logits ``-|x - c|^2 / tau`` (paper, section 3.4.1, which gives no value); ``auto`` takes
            the codebook's mean pairwise squared distance, so that the logits do not depend on its scale (our choice).
        visibility: who reads whom: ``hybrid`` (paper, Figure 1b), ``dreamvla`` (its ablation: proprio reads depth),
            ``within_modality`` (image and text read only themselves), ``unread`` (nobody reads depth), ``by_proprio``
            (proprio alone does).
        future: also predict the depth this many frames ahead (the paper's future work); 0 for the present alone.
    """

    target: Literal["codes", "pixels", "latents"] = "codes"
    grid: int = 16
    codes: int = 256
    code_dim: int = 160
    image_size: int = 256
    temperature: float | Literal["auto"] = "auto"
    visibility: Literal["hybrid", "dreamvla", "within_modality", "unread", "by_proprio"] = "hybrid"
    future: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "grid codes code_dim image_size")
        if self.temperature != "auto" and self.temperature <= 0:
            raise ValueError(f"depth.temperature is {self.temperature}: it must be above 0, or auto")
        if self.image_size % self.grid:
            raise ValueError(f"image_size {self.image_size} must be a multiple of grid {self.grid}")
        if self.future < 0:
            raise ValueError(f"future is {self.future}: depth is predicted ahead, or 0 for the present alone")

    @property
    def head_shape(self) -> tuple[object, ...]:
        """Depth heads with the same shape can exchange weights."""
        sizes = self.image_size if self.target == "pixels" else (self.codes, self.code_dim)
        return self.target, self.grid, sizes, self.future > 0


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
        _check_positive(self, "state_dim action_dim horizon vlm_width vlm_mlp expert_width expert_mlp layers heads")
        _check_positive(self, "kv_heads head_dim vocab_size text_tokens flow_steps flow_draws")
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


def _check_positive(config: object, names: str) -> None:
    for name in names.split():
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be at least 1")
