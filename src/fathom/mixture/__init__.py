"""Mixture of transformers: blocks of tokens, a table of who reads whom, streams with their own weights, one attention.

This room knows nothing of robots or depth. A model is a set of streams, a visibility table and a plan.
"""

from fathom.mixture.aligned import AlignedStream, Alignment, VisionStream
from fathom.mixture.attention import Backend, attend, attention_weights
from fathom.mixture.bias import LogitBias
from fathom.mixture.blocks import Block, Span
from fathom.mixture.cache import Cache
from fathom.mixture.dinov3 import DINOv3Stream
from fathom.mixture.gemma import GemmaStream, GemmaStreamLayer
from fathom.mixture.mixture import Mixture, Plan, in_step
from fathom.mixture.passing import Pass, Watcher
from fathom.mixture.qwen3 import Qwen3Stream
from fathom.mixture.siglip import SiglipStream
from fathom.mixture.stream import Stream, StreamLayer
from fathom.mixture.visibility import Mask, Visibility

__all__ = [
    "AlignedStream",
    "Alignment",
    "Backend",
    "Block",
    "Cache",
    "DINOv3Stream",
    "GemmaStream",
    "GemmaStreamLayer",
    "LogitBias",
    "Mask",
    "Mixture",
    "Pass",
    "Plan",
    "Qwen3Stream",
    "SiglipStream",
    "Span",
    "Stream",
    "StreamLayer",
    "Visibility",
    "VisionStream",
    "Watcher",
    "attend",
    "attention_weights",
    "in_step",
]
