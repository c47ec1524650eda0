"""Small Qwen-VLs with random weights and a vocabulary of words: for tests and the quickstart, without a download."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.model import DepthVLM
from fathom.vlm.processor import IMAGE, VISION_END, VISION_START, DepthVLMProcessor
from fathom.vlm.qwen import new_vlm

_PAD, _UNKNOWN, _TURN, _END, _VIDEO = "<|endoftext|>", "<|unk|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>"
_PIECES = Regex(r" ?[A-Za-z]+| ?\d|\s|.")  # a number is read digit by digit; a word keeps the space before it


@dataclass(frozen=True)
class SmallSize:
    """The sizes of a small VLM.

    Attributes:
        width: of the language model; the heads are 16 wide.
        layers: of the language model.
        vision_width: of the vision tower.
        vision_layers: of the vision tower.
        patch: side of a patch in pixels; four patches make a token.
        image: pictures are resized to about as many pixels as a square of this side has.
    """

    width: int = 64
    layers: int = 2
    vision_width: int = 32
    vision_layers: int = 4
    patch: int = 8
    image: int = 64


def small_depth_vlm(
    config: DepthVLMConfig,
    texts: Iterable[str],
    *,
    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl",
    size: SmallSize = SmallSize(),
    seed: int = 0,
) -> DepthVLM:
    """A model with random weights; its depth encoder begins as its vision tower.

    Args:
        texts: questions and answers with every word that it shall know.
        seed: of the weights.
    """
    tokenizer = word_tokenizer(texts)
    pixels = size.image**2
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=size.patch, size={"shortest_edge": pixels, "longest_edge": pixels}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vlm = new_vlm(_described(family, size, tokenizer))
        model = DepthVLM(config, vlm, DepthVLMProcessor(tokenizer, image_processor, config))
    model.start_encoder()
    return model


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The words, digits and signs of ``texts``, and Qwen's special tokens; text of known words comes back as it was."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_PIECES, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    special = [_PAD, _UNKNOWN, _TURN, _END, VISION_START, VISION_END, IMAGE, _VIDEO]
    known = sorted({*texts, "system", "user", "assistant", "\n"})
    tokenizer.train_from_iterator(known, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        eos_token=_END,
        additional_special_tokens=[_TURN, VISION_START, VISION_END, IMAGE, _VIDEO],
        clean_up_tokenization_spaces=False,
    )


def _described(family: str, size: SmallSize, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """As a checkpoint's ``config.json`` would."""
    id_of = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_width,
        "intermediate_size": 4 * size.vision_width,
        "num_heads": 2,
        "out_hidden_size": size.width,
        "patch_size": size.patch,
    }
    last = size.vision_layers - 1
    of_family = {
        "qwen2_5_vl": {"window_size": 4 * size.patch, "fullatt_block_indexes": sorted({last // 2, last})},
        "qwen3_vl": {"num_position_embeddings": 64, "deepstack_visual_indexes": list(range(min(2, last)))},
    }[family]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.width // 16,
        "num_key_value_heads": size.width // 16,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": id_of(_END),
        "pad_token_id": id_of(_PAD),
    }
    return {
        "model_type": family,
        "vision_config": vision | of_family,
        "text_config": text,
        "image_token_id": id_of(IMAGE),
        "video_token_id": id_of(_VIDEO),
        "vision_start_token_id": id_of(VISION_START),
        "vision_end_token_id": id_of(VISION_END),
        "tie_word_embeddings": True,
    }
