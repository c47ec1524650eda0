"""What a depth-aware VLM is made of."""

from dataclasses import dataclass, field
from typing import Literal

from fathom.depth.depth_map import DepthKind, LogRange
from fathom.lora import LoRA

Fusion = Literal["concat", "positional", "adapter", "rgbd", "none"]
"""How depth reaches the language model.

``concat``: depth tokens stand behind the RGB tokens, both through the VLM's own merger. ``positional``: a sinusoidal
encoding of the depth is added to each RGB token (SD-VLM). ``adapter``: a side network reads RGB and depth features and
corrects what the merger sees (in the manner of HFIT). ``rgbd``: a fourth channel of the patch embedding. ``none``: the
VLM as it is.
"""

DepthTokens = Literal["encoder", "packed"]
"""Where the tokens of ``concat`` come from: a depth encoder, or the VLM's own vision tower reading depth that is packed
into three channels (SpatialBot)."""


@dataclass(frozen=True)
class DepthVLMConfig:
    """What stands around the VLM (SPEC §2); the VLM itself is described by transformers' own configuration.

    Attributes:
        fusion: see :data:`Fusion`.
        depth_kind: which depth the model reads; one model never reads both.
        depth_range: metric depth reaches the depth encoder and the fourth channel through this logarithmic scale.
        depth_tokens: of ``concat``, see :data:`DepthTokens`.
        compression: of ``concat``: the grid of depth tokens has this many times fewer rows and columns.
        alpha: of ``positional``: the depth of an image runs from 0 to this number.
        adapter_layers: of ``adapter``: how many layers of the vision tower the side network reads.
        adapter_width: of ``adapter``: the width of the side network.
        lora: adapters on the language model; ``None`` for none.
        base: hub id or folder of the VLM that all began with; ``None`` for random weights.
        base_revision: the commit of it on the hub, which may change; ``None`` for a folder.
    """

    fusion: Fusion = "concat"
    depth_kind: DepthKind = "metric"
    depth_range: LogRange = field(default_factory=lambda: LogRange(near=0.1, far=100.0))
    depth_tokens: DepthTokens = "encoder"
    compression: int = 1
    alpha: float = 100.0
    adapter_layers: int = 4
    adapter_width: int = 128
    lora: LoRA | None = None
    base: str | None = None
    base_revision: str | None = None

    def __post_init__(self) -> None:
        if self.compression < 1 or self.adapter_layers < 1 or self.adapter_width < 1:
            raise ValueError("compression, adapter_layers and adapter_width are each at least 1")
        if self.packed and self.depth_kind != "metric":
            raise ValueError("depth_tokens = packed writes millimetres into three channels: it needs metric depth")

    @property
    def packed(self) -> bool:
        """Whether depth goes through the VLM's own vision tower, as a picture."""
        return self.fusion == "concat" and self.depth_tokens == "packed"

    @property
    def has_encoder(self) -> bool:
        """Whether there is a depth encoder."""
        return self.fusion == "adapter" or (self.fusion == "concat" and not self.packed)
