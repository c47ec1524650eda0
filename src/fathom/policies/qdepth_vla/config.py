"""The sizes and choices of a QDepth-VLA."""

from dataclasses import dataclass, field
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
VISIBILITY["pi0"] = VISIBILITY["hybrid"].without("depth")
"""Who reads whom, by name. ``hybrid``: the paper's Figure 1b; ``dreamvla``: its ablation, proprio reads depth too;
``within_modality``: image and text each read only themselves; ``pi0``: no depth."""


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP encoder; the defaults are So400m/14 at 224 px."""

    width: int = 1152
    mlp: int = 4304
    layers: int = 27
    heads: int = 16
    image_size: int = 224
    patch: int = 14

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
            vision_use_head=False,
            # On a CPU sdpa's backward is the slower one: see `fathom.mixture.attention`.
            attn_implementation="sdpa" if torch.cuda.is_available() else "eager",  # type: ignore[call-arg]
        )


@dataclass(frozen=True)
class DepthConfig:
    """The depth expert and its target.

    Attributes:
        grid: side of the grid of depth tokens: that of the image tokens, or twice as many.
        codes, code_dim: the codebook of the depth tokenizer.
        temperature: tau of the logits ``-|x - c|^2 / tau``; ``auto`` takes the codebook's mean pairwise squared
            distance, so that the logits do not depend on its scale.
        visibility: a name in :data:`VISIBILITY`.
    """

    grid: int = 16
    codes: int = 256
    code_dim: int = 160
    temperature: float | Literal["auto"] = "auto"
    visibility: Literal["hybrid", "dreamvla", "within_modality"] = "hybrid"


@dataclass(frozen=True)
class QDepthVLAConfig:
    """A QDepth-VLA; the defaults are the paper's (Table 1), on PaliGemma-3B.

    Attributes:
        state_dim, action_dim: width of the proprio and of one action.
        horizon: actions in a chunk.
        cameras: views in the order of their tokens; depth is predicted for the first, ``main``.
        vision: the image encoder.
        vlm_width, vlm_mlp: the language model's width and MLP width.
        expert_width, expert_mlp: the same for the depth and the action expert.
        layers, heads, kv_heads, head_dim: shared by all streams, which meet in every layer.
        vocab_size, text_tokens: of the text, padding included.
        depth: the depth expert; ``None`` is the open pi-zero baseline.
        conventions: ``open_pi_zero`` or ``openpi``.
        softcap: cap on the attention logits (open-pi-zero: 50); needs the eager or the flex backend.
        attention: the backend, see :func:`fathom.mixture.attend`.
        flow_steps: Euler steps per chunk.
        flow_draws: noises and times drawn per observation in training; more of them cost only action tokens.
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
    vocab_size: int = 257_216
    text_tokens: int = 20
    depth: DepthConfig | None = field(default_factory=DepthConfig)
    conventions: Literal["open_pi_zero", "openpi"] = "open_pi_zero"
    softcap: float | None = None
    attention: Backend = "auto"
    flow_steps: int = 10
    flow_draws: int = 1
    blind: bool = False

    def __post_init__(self) -> None:
        if not self.cameras or self.cameras[0] != "main":
            raise ValueError(f"the first camera must be 'main', not {self.cameras}")
        if self.depth and self.depth.grid not in (self.vision.grid, 2 * self.vision.grid):
            raise ValueError(
                f"the depth grid {self.depth.grid} must be the image tokens' grid {self.vision.grid} or twice that"
            )

    @property
    def visibility(self) -> Visibility:
        """Who reads whom."""
        return VISIBILITY[self.depth.visibility if self.depth else "pi0"]

    @property
    def convention(self) -> Conventions:
        """The family's conventions."""
        return CONVENTIONS[self.conventions]

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
        )
