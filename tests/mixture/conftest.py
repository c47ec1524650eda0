"""Small random streams for the mixture's tests."""

import pytest
import torch
from transformers import GemmaConfig

from fathom.mixture import Block, GemmaStream


def gemma_config(width: int = 32, layers: int = 3, **changes) -> GemmaConfig:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "vocab_size": 50}
    return GemmaConfig(**{**heads, **sizes, **changes})


@pytest.fixture
def make_stream():
    def make(width: int = 32, layers: int = 3, **changes) -> GemmaStream:
        stream = GemmaStream(gemma_config(width, layers, **changes))
        for parameter in stream.parameters():  # RMSNorm starts at 0, which would hide a missing norm weight
            torch.nn.init.normal_(parameter, std=0.2)
        return stream.eval()

    return make


@pytest.fixture
def make_block():
    def make(name: str, length: int, width: int, batch: int = 2, start: int = 1, valid=None) -> Block:
        positions = torch.arange(start, start + length).expand(batch, -1)
        return Block(name, torch.randn(batch, length, width), positions, valid)

    return make
