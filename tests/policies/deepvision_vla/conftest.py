"""A DeepVision-VLA small enough for tests, in all its variants."""

from dataclasses import replace

import pytest
import torch
from tests.policies.conftest import INSTRUCTIONS, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization, Scaling
from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig, ExpertConfig, PruningConfig, TowerConfig
from fathom.policies.deepvision_vla.prompt import ChatTokenizer
from fathom.policies.qdepth_vla import DepthConfig
from fathom.policies.text import TextTokenizer

DEPTH = DepthConfig(grid=8, codes=16, code_dim=12, image_size=32)

EXPERT = ExpertConfig(
    width=24,
    mlp=32,
    layers=3,
    heads=3,
    image_size=32,
    patch=4,
    registers=2,
    coupled=2,
    kv_heads=2,
    bias=-1.0,
    pruning=PruningConfig(first_layer=0, keep=20),
)


def tiny_config(**changes) -> DeepVisionVLAConfig:
    config = DeepVisionVLAConfig(
        state_dim=5,
        action_dim=3,
        horizon=4,
        vision=TowerConfig(
            width=32, mlp=48, layers=3, heads=2, image_size=32, patch=4, merge=2, position_grid=6, deepstack=(0, 1)
        ),
        vlm_width=32,
        vlm_mlp=64,
        layers=4,
        heads=4,
        kv_heads=2,
        head_dim=16,
        text_tokens=10,
        prompt="plain",
        expert=EXPERT,
        depth_width=16,
        depth_mlp=32,
    )
    return replace(config, **changes)


def chat_tokenizer() -> ChatTokenizer:
    """A vocabulary of bytes, with Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({letter: index for index, letter in enumerate([*alphabet, "user", "assistant"])}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens(["user", "assistant"])  # one token each, as in Qwen's vocabulary
    return ChatTokenizer(tokenizer)


@pytest.fixture
def make_policy():
    def make(**changes) -> DeepVisionVLA:
        chat = changes.get("prompt") == "chat"
        text = chat_tokenizer() if chat else TextTokenizer.from_instructions(INSTRUCTIONS)
        config = tiny_config(vocab_size=text.vocab_size, **({"text_tokens": 48} if chat else {}) | changes)
        normalization = Normalization(
            "quantile", Scaling((0.5,) * 5, (2.0,) * 5, clip=True), Scaling((0.1,) * 3, (0.5,) * 3, clip=True)
        )
        torch.manual_seed(0)
        return DeepVisionVLA(config, normalization, text, tiny_tokenizer() if config.depth else None)

    return make


@pytest.fixture
def outputs_of():
    """What every block is at the end of the pass of an observation."""

    def outputs(policy: DeepVisionVLA, observation: Observation) -> dict[str, torch.Tensor]:
        passes = []
        begin = policy.mixture.begin
        policy.mixture.begin = lambda blocks, **_: passes.append(begin(blocks)) or passes[-1]
        with torch.no_grad():
            policy.chunk(policy.prepare(observation))
        del policy.mixture.begin
        return passes[0].outputs()

    return outputs


def observation_of(batch: Batch) -> Observation:
    return Observation(batch.images, batch.state, batch.instruction)


def with_(expert: ExpertConfig = EXPERT, **changes) -> ExpertConfig:
    return replace(expert, **changes)
