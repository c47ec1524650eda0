"""The sizes and choices of a DeepVision-VLA.

Source: arXiv 2603.15618. What it leaves open is marked as our choice.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

from fathom.mixture import Backend
from fathom.policies.deepvision_vla.vision_config import ExpertConfig, TowerConfig
from fathom.policies.depth_expert import DepthConfig
from fathom.policies.sizes import check_positive


@dataclass(frozen=True)
class DeepVisionVLAConfig:
    """A DeepVision-VLA; the defaults are the paper's, on Qwen3-VL-4B.

    Attributes:
        state_dim: numbers of proprio; those of a robot with fewer are padded with zeros.
        action_dim: numbers of one action; likewise.
        horizon: actions in a chunk (our choice: 8).
        cameras: views in the order of their tokens; the first is ``main``.
        vision: the language model's own image encoder.
        vlm_width: of the language model's tokens (Qwen3-VL-4B: 2560).
        vlm_mlp: width of its MLPs.
        layers: of the language model.
        heads: of the attention that all streams share.
        kv_heads: keys and values that the heads share.
        head_dim: of one head.
        norm_eps: of the language model's norms.
        rope_theta: of its rotary positions.
        vocab_size: of the text tokenizer.
        text_tokens: of the instruction, padding included.
        prompt: ``chat``: Qwen's own template; ``plain``: images and words alone, for a model trained from scratch.
        expert: the vision expert; ``none`` is the baseline, QwenVLA-OFT.
        depth: a depth expert as QDepth-VLA's, beside the vision expert or in its place; ``none`` in the paper.
        depth_width: of the depth expert's tokens.
        depth_mlp: width of its MLPs.
        proprio: also read the robot's state, as a token before the actions (the paper does not).
        attention: the backend of ``fathom.mixture.attend``.
        blind: replace every image by a grey one: the baseline that shows what sight is worth.
    """

    state_dim: int = 7
    action_dim: int = 7
    horizon: int = 8
    cameras: tuple[str, ...] = ("main",)
    vision: TowerConfig = field(default_factory=TowerConfig)
    vlm_width: int = 2560
    vlm_mlp: int = 9728
    layers: int = 36
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    norm_eps: float = 1e-6
    rope_theta: float = 5_000_000.0
    vocab_size: int = 151_936
    text_tokens: int = 48
    prompt: Literal["chat", "plain"] = "chat"
    expert: ExpertConfig | None = field(default_factory=ExpertConfig)
    depth: DepthConfig | None = None
    depth_width: int = 1024
    depth_mlp: int = 4096
    proprio: bool = False
    attention: Backend = "auto"
    blind: bool = False

    def __post_init__(self) -> None:
        if not self.cameras or self.cameras[0] != "main":
            raise ValueError(f"the first camera must be 'main', not {self.cameras}")
        check_positive(self, "state_dim action_dim horizon vlm_width vlm_mlp layers heads kv_heads head_dim")
        check_positive(self, "vocab_size text_tokens depth_width depth_mlp")
        if self.heads % self.kv_heads or self.head_dim % 8:
            raise ValueError(
                f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}, head_dim {self.head_dim} of 8"
            )
        if len(self.vision.deepstack) > self.layers:
            raise ValueError(f"vision.deepstack feeds {len(self.vision.deepstack)} layers; there are {self.layers}")
        if self.depth and self.depth.visibility != "hybrid":
            raise ValueError(f"depth.visibility is {self.depth.visibility!r}: beside a vision expert it is 'hybrid'")
        if self.expert and self.expert.fusion == "mot":
            _check_coupling(self.expert, self)

    @property
    def coupling(self) -> ExpertConfig | None:
        """The vision expert where it meets the language model in a shared attention."""
        return self.expert if self.expert and self.expert.fusion == "mot" else None

    @property
    def alone(self) -> int:
        """Layers of the language model that run before the first that meets the vision expert."""
        return self.layers - (self.coupling.coupled if self.coupling else 0)

    @property
    def guiding(self) -> range:
        """The layers whose attention chooses the vision expert's tokens."""
        if self.coupling is None or self.coupling.pruning is None:
            return range(0)
        pruning = self.coupling.pruning
        free = self.coupling.joining[0] if pruning.guide == "cls" else self.alone
        return range(pruning.first_layer, (free if pruning.last_layer is None else pruning.last_layer + 1))

    @property
    def image_size(self) -> int:
        """Side of the largest picture that any part sees, in pixels."""
        return max(self.vision.image_size, self.expert.image_size if self.expert else 0)

    @property
    def stored_size(self) -> int | None:
        """Side to which pictures can be resized once and for all; none where two parts see them at different sizes."""
        sizes = {self.vision.image_size, self.expert.image_size if self.expert else self.vision.image_size}
        return self.image_size if len(sizes) == 1 else None

    @property
    def framing(self) -> tuple[int, int]:
        """Tokens of the prompt before the first image, and directly before each image and again behind it."""
        return (3, 1) if self.prompt == "chat" else (0, 0)  # Qwen's chat template

    @property
    def tokens(self) -> dict[str, int]:
        """How many tokens each block of the mixture has; of the vision expert, those that meet the language model."""
        opening, frame = self.framing
        image = self.vision.grid**2
        prompt = opening + len(self.cameras) * (image + 2 * frame) + self.text_tokens
        counts = {"prompt": prompt, "action": self.horizon}
        counts |= {"proprio": 1} if self.proprio else {}
        counts |= {"depth": image} if self.depth else {}
        seen = self.coupling.tokens if self.coupling else 0
        return counts | {f"expert_{camera}": seen for camera in self.cameras if self.coupling}

    def choosing_as(self, other: "DeepVisionVLAConfig") -> "DeepVisionVLAConfig":
        """These sizes, which belong to the weights, with the other's choices, which can be made for any weights.

        Raises:
            UserError: the other asks for a vision expert that these weights were not made for.
            ValueError: the choices do not fit these sizes.
        """
        names = [
            "horizon",
            "cameras",
            "text_tokens",
            "depth",
            "depth_width",
            "depth_mlp",
            "proprio",
            "attention",
            "blind",
        ]
        expert = self.expert.choosing_as(other.expert) if self.expert and other.expert else other.expert
        return replace(self, expert=expert, **{name: getattr(other, name) for name in names})

    def qwen(self, stream: Literal["vlm", "depth"]) -> Qwen3VLTextConfig:
        """The language model's or the depth expert's size, as transformers says it."""
        half = self.head_dim // 2
        side = round(half * 5 / 16)  # Qwen3-VL gives height and width 20 of 64 each
        return Qwen3VLTextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.vlm_width if stream == "vlm" else self.depth_width,
            intermediate_size=self.vlm_mlp if stream == "vlm" else self.depth_mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            rms_norm_eps=self.norm_eps,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": self.rope_theta,
                "mrope_section": [half - 2 * side, side, side],
                "mrope_interleaved": True,
            },
        )


def _check_coupling(expert: ExpertConfig, config: DeepVisionVLAConfig) -> None:
    if expert.coupled > config.layers:
        raise ValueError(
            f"expert.coupled is {expert.coupled}, but the language model has only {config.layers} layers to meet"
        )
    if expert.kv_heads not in (config.kv_heads, config.heads):
        raise ValueError(
            f"expert.kv_heads is {expert.kv_heads}: the language model has {config.kv_heads} key heads and "
            f"{config.heads} heads, and one of these is needed"
        )
    if expert.pruning is None:
        return
    stack, free = (
        ("vision expert", expert.joining[0]) if expert.pruning.guide == "cls" else ("language model", config.alone)
    )
    guiding = config.guiding
    if not (0 <= guiding.start < guiding.stop <= free):
        raise ValueError(
            f"expert.pruning is guided by layers {guiding.start} to {guiding.stop - 1}, but only the first {free} of "
            f"the {stack} come before the layers that meet: choose first_layer and last_layer among these"
        )
