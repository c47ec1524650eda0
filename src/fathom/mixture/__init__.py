"""Mixture of transformers: blocks of tokens, a table of who reads whom, streams with their own weights, one attention.

This room knows nothing of robots, images or depth. A model is a set of streams, a visibility table and a plan.
"""

from fathom.mixture.attention import Backend, attend, attention_weights
from fathom.mixture.blocks import Block, Span
from fathom.mixture.gemma import GemmaStream, GemmaStreamLayer
from fathom.mixture.mixture import Cache, Mixture, Plan, in_step
from fathom.mixture.stream import Stream, StreamLayer
from fathom.mixture.visibility import Mask, Visibility

__all__ = [
    "Backend",
    "Block",
    "Cache",
    "GemmaStream",
    "GemmaStreamLayer",
    "Mask",
    "Mixture",
    "Plan",
    "Span",
    "Stream",
    "StreamLayer",
    "Visibility",
    "attend",
    "attention_weights",
    "in_step",
]
