"""The sizes of Video-Depth-Anything."""

from dataclasses import dataclass

from transformers import Dinov2Config

NORM_GROUPS = 32
"""Groups of the normalisation before each motion module."""

TEMPORAL_HEADS = 8
"""Heads of the attention over time."""


@dataclass(frozen=True)
class EncoderConfig:
    """A DINOv2 vision transformer, and what is read of it.

    Attributes:
        width, layers, heads: of the transformer; its MLP is four times as wide.
        intermediate_layers: the four layers whose outputs the head reads, counted from 0.
        image_size: side in pixels of the pictures that the position embeddings were trained for.
        patch_size: side of a patch in pixels.
    """

    width: int
    layers: int
    heads: int
    intermediate_layers: tuple[int, int, int, int]
    image_size: int = 518
    patch_size: int = 14

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if not 0 <= min(self.intermediate_layers) <= max(self.intermediate_layers) < self.layers:
            raise ValueError(f"intermediate_layers {self.intermediate_layers} must lie in 0 … {self.layers - 1}")

    def dinov2(self) -> Dinov2Config:
        """The same for transformers."""
        return Dinov2Config(
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            layer_norm_eps=1e-6,
        )


@dataclass(frozen=True)
class VideoDepthConfig:
    """Video-Depth-Anything: an encoder, and the head that turns what it sees into depth.

    Attributes:
        encoder: see :class:`EncoderConfig`.
        features: channels of the head's fused picture.
        out_channels: channels of the four layers that are fused, fine to coarse.
    """

    encoder: EncoderConfig
    features: int
    out_channels: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for channels in (self.features, *self.out_channels[2:]):
            if channels % NORM_GROUPS:
                raise ValueError(f"{channels} channels are no multiple of the norm's {NORM_GROUPS} groups")


SIZES = {
    "small": VideoDepthConfig(EncoderConfig(384, 12, 6, (2, 5, 8, 11)), 64, (48, 96, 192, 384)),
    "base": VideoDepthConfig(EncoderConfig(768, 12, 12, (2, 5, 8, 11)), 128, (96, 192, 384, 768)),
    "large": VideoDepthConfig(EncoderConfig(1024, 24, 16, (4, 11, 17, 23)), 256, (256, 512, 1024, 1024)),
}
"""The released sizes."""
