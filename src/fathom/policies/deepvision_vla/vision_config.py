"""The sizes and choices of the two image encoders: the language model's own tower, and the vision expert."""

from dataclasses import dataclass, field, replace
from typing import Literal

from transformers import SiglipVisionConfig
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from fathom.errors import UserError
from fathom.mixture.aligned import Positions
from fathom.policies.sizes import check_positive

CHOICES = ("reads", "positions", "pruning", "alignment_weight")
"""Of a vision expert, what can be chosen for any weights."""

MADE_FOR = ("encoder", "fusion", "coupled", "which", "kv_heads", "bias", "image_size")
"""Of a vision expert, what weights are made for, and what no other weights of the same sizes would do."""


@dataclass(frozen=True)
class TowerConfig:
    """Qwen3-VL's vision tower; the defaults are Qwen3-VL-4B's at 256 px.

    Attributes:
        width: of its tokens.
        mlp: width of its MLPs.
        layers: how many.
        heads: of its attention.
        image_size: side of the square picture it sees, in pixels.
        patch: side of its patches; ``merge`` x ``merge`` of them become one token.
        merge: see ``patch``.
        position_grid: side of the learned grid of positions, resampled to the picture's.
        deepstack: the layers whose tokens the language model's first layers also get.
    """

    width: int = 1024
    mlp: int = 4096
    layers: int = 24
    heads: int = 16
    image_size: int = 256
    patch: int = 16
    merge: int = 2
    position_grid: int = 48
    deepstack: tuple[int, ...] = (5, 11, 17)

    def __post_init__(self) -> None:
        check_positive(self, "width mlp layers heads image_size patch merge position_grid")
        if self.image_size % (self.patch * self.merge):
            raise ValueError(
                f"vision.image_size {self.image_size} must be a multiple of patch x merge {self.patch * self.merge}"
            )
        if self.width % (4 * self.heads):
            raise ValueError(f"vision.width {self.width} must be a multiple of 4 x vision.heads {4 * self.heads}")
        if late := [layer for layer in self.deepstack if not 0 <= layer < self.layers]:
            raise ValueError(f"vision.deepstack names layers {late}: the tower has {self.layers}")

    @property
    def grid(self) -> int:
        """Image tokens along one side, as the language model reads them."""
        return self.image_size // self.patch // self.merge

    def qwen(self, out_width: int) -> Qwen3VLVisionConfig:
        """The same as transformers says it, for a language model of this width."""
        return Qwen3VLVisionConfig(
            depth=self.layers,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_heads=self.heads,
            patch_size=self.patch,
            spatial_merge_size=self.merge,
            out_hidden_size=out_width,
            num_position_embeddings=self.position_grid**2,
            deepstack_visual_indexes=list(self.deepstack),
        )


@dataclass(frozen=True)
class PruningConfig:
    """Action-guided visual pruning: which of the vision expert's tokens enter the layers that meet.

    Attributes:
        guide: whose attention chooses: that of the ``action`` tokens (the paper) or of the ``instruction`` on the
            language model's image tokens, or that of the expert's own ``cls`` token on its patches.
        keep: how many patch tokens of each camera stay, or as a float which share of them (paper: 512, a half). CLS and
            the registers always stay.
        first_layer: of the guiding layers (paper: 4), counted in the language model or, for ``cls``, in the expert.
        last_layer: of them (paper: 19); ``none`` for the last one before the first that meets the other stream.
    """

    guide: Literal["action", "instruction", "cls"] = "action"
    keep: int | float = 0.5
    first_layer: int = 4
    last_layer: int | None = None

    def __post_init__(self) -> None:
        if self.keep <= 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ValueError(
                f"pruning.keep is {self.keep}: a number of tokens from 1, or a share above 0 and up to 1.0"
            )

    def kept(self, patches: int) -> int:
        """How many of a camera's patch tokens stay."""
        return self.keep if isinstance(self.keep, int) else max(1, round(self.keep * patches))


@dataclass(frozen=True)
class ExpertConfig:
    """The vision expert; the defaults are DINOv3 ViT-H+/16 at 512 px, half of its layers joined.

    Attributes:
        encoder: ``dinov3``, or ``siglip`` (the paper's ablation).
        width: of its tokens.
        mlp: width of its MLPs.
        layers: how many the encoder has.
        heads: of its own attention.
        image_size: side of the square picture it sees, in pixels.
        patch: side of the patch that becomes one token.
        registers: tokens beside CLS that stand for no place (DINOv3 alone).
        gated_mlp: SwiGLU in place of a plain MLP (DINOv3 alone).
        fusion: how it reaches the language model. ``mot``: they meet in a shared attention (the paper). For comparison:
            ``early``: its output is added to the image tokens, through a map that begins at zero; ``aligned``: the
            language model's image tokens are trained to resemble its output, in the middle layer, and it is not run in
            acting. An aligned expert is never trained, so it must come with the weights that a training starts from.
        coupled: how many of its layers meet as many of the language model's last ones (paper: 16).
        which: of its layers: the ``last``, the ``first``, or some spread ``uniform`` over all (paper: last).
        reads: what of the language model's tokens it reads: ``all``, the ``prompt`` alone, or ``none`` (our choice:
            all).
        positions: ``fractional``: its patches stand between the image tokens in the language model's own rotary
            positions; ``native``: its own positions, before the alignment; ``none`` (our choice: fractional).
        kv_heads: key heads that its keys are mapped to: as many as the language model has key heads, or heads.
        bias: first value of the learned number added to the language model's logits for the expert's tokens (our
            choice: -10, so that a pretrained language model begins almost as it was; 0 suits one that learns from
            scratch).
        pruning: which of its tokens enter the layers that meet; ``none``: all.
        alignment_weight: of the alignment's loss, with ``fusion`` aligned (our choice).
    """

    encoder: Literal["dinov3", "siglip"] = "dinov3"
    width: int = 1280
    mlp: int = 5120
    layers: int = 32
    heads: int = 20
    image_size: int = 512
    patch: int = 16
    registers: int = 4
    gated_mlp: bool = True
    fusion: Literal["mot", "early", "aligned"] = "mot"
    coupled: int = 16
    which: Literal["last", "uniform", "first"] = "last"
    reads: Literal["all", "prompt", "none"] = "all"
    positions: Positions = "fractional"
    kv_heads: int = 8
    bias: float = -10.0
    pruning: PruningConfig | None = field(default_factory=PruningConfig)
    alignment_weight: float = 0.5

    def __post_init__(self) -> None:
        check_positive(self, "width mlp layers heads image_size patch coupled kv_heads")
        if self.image_size % self.patch or self.width % (4 * self.heads):
            raise ValueError(
                f"expert.image_size {self.image_size} must be a multiple of patch {self.patch}, "
                f"and width {self.width} of 4 x heads {4 * self.heads}"
            )
        if self.coupled > self.layers:
            raise ValueError(f"expert.coupled is {self.coupled}, but the vision expert has only {self.layers} layers")
        if self.pruning and self.pruning.kept(self.grid**2) > self.grid**2:
            raise ValueError(
                f"expert.pruning.keep is {self.pruning.keep}, but the vision expert has only {self.grid**2} patch "
                f"tokens for each camera ({self.grid} x {self.grid})"
            )
        if self.pruning and self.pruning.guide == "cls" and self.encoder == "siglip":
            raise ValueError("expert.pruning.guide is 'cls', and SigLIP has no CLS token: choose action or instruction")

    @property
    def grid(self) -> int:
        """Patch tokens along one side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Of each camera, as they enter the layers that meet: CLS and registers, and the patches that stay."""
        patches, prefix = self.grid**2, 1 + self.registers if self.encoder == "dinov3" else 0
        return prefix + (self.pruning.kept(patches) if self.pruning else patches)

    @property
    def joining(self) -> tuple[int, ...]:
        """Its layers that meet the language model's last ones, in their order."""
        match self.which:
            case "last":
                return tuple(range(self.layers - self.coupled, self.layers))
            case "first":
                return tuple(range(self.coupled))
            case "uniform":
                return tuple((step + 1) * self.layers // self.coupled - 1 for step in range(self.coupled))

    @property
    def layers_run(self) -> int:
        """Its layers up to the last that is of use."""
        return self.joining[-1] + 1 if self.fusion == "mot" else self.layers

    def choosing_as(self, other: "ExpertConfig") -> "ExpertConfig":
        """These sizes, which belong to the weights, with the other's choices, which can be made for any weights.

        Raises:
            UserError: the other asks for weights that were made in another way (:data:`MADE_FOR`). What it leaves at
                its default is not asked for.
            ValueError: the choices do not fit these sizes.
        """
        plain = ExpertConfig()
        for name in MADE_FOR:
            wished, made = getattr(other, name), getattr(self, name)
            if wished not in (made, getattr(plain, name)):
                raise UserError(
                    f"policy.expert.{name} is {wished} in the recipe, but the weights that the training starts from "
                    f"were made for {made}: set it to {made}, or make them anew with {wished}"
                )
        return replace(self, **{name: getattr(other, name) for name in CHOICES})

    def dinov3(self) -> DINOv3ViTConfig:
        """The same as transformers says it."""
        return DINOv3ViTConfig(
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers_run,
            num_attention_heads=self.heads,
            patch_size=self.patch,
            image_size=self.image_size,
            num_register_tokens=self.registers,
            use_gated_mlp=self.gated_mlp,
            hidden_act="silu" if self.gated_mlp else "gelu",
        )

    def siglip(self) -> SiglipVisionConfig:
        """The same as transformers says it."""
        return SiglipVisionConfig(
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers_run,
            num_attention_heads=self.heads,
            image_size=self.image_size,
            patch_size=self.patch,
            vision_use_head=False,
        )
