"""PaliGemma: the vision encoder and the language model that a policy starts from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PaliGemmaConfig, PreTrainedConfig

from fathom.config import read_json
from fathom.errors import UserError
from fathom.hub import local_folder
from fathom.policies.qdepth_vla import QDepthVLAConfig, VisionConfig
from fathom.policies.weights.checkpoint import open_checkpoint
from fathom.policies.weights.conversion import KeyMap, plan
from fathom.policies.weights.folder import Imported, check_free, find_tokenizer, fresh_depth, write_policy

HUB_FILES = ("*.json", "*.safetensors")
VLM, DEPTH, ACTION = "mixture.streams.vlm.", "mixture.streams.depth.", "mixture.streams.action."
FRESH_DEPTH = (DEPTH, "depth_head.")


def paligemma_prefixes(root: str) -> dict[str, str]:
    """How the names of a PaliGemma under ``root`` begin in transformers' older and newer layouts, and ours."""
    return {
        f"{root}{inner}{theirs}": ours
        for inner in ("", "model.")
        for theirs, ours in {
            "language_model.model.": VLM,
            "language_model.": VLM,
            "vision_tower.vision_model.": "vision_tower.",
            "vision_tower.": "vision_tower.",
            "multi_modal_projector.linear.": "multi_modal_projector.",
        }.items()
    }


def paligemma_tied(root: str) -> dict[str, str]:
    """The head that predicts words is the embedding."""
    return dict.fromkeys((f"{root}lm_head.", f"{root}language_model.lm_head."), f"{VLM}embed_tokens.")


POOLING = ("*vision_tower.head.*", "*vision_tower.vision_model.head.*")
"""SigLIP's own pooling of an image to one vector, which PaliGemma does not use."""

KEYS = KeyMap(
    paligemma_prefixes(""),
    paligemma_tied(""),
    unread=POOLING,
    fresh=(*FRESH_DEPTH, ACTION, "proprio_encoder.", "action_encoder.", "action_decoder."),
)


def import_paligemma(
    source: str | Path, out: Path, config: QDepthVLAConfig, *, depth: bool = True, seed: int = 0
) -> Imported:
    """A start for training: PaliGemma's weights, and experts with first values.

    Args:
        source: a folder of transformers' ``PaliGemmaForConditionalGeneration``, or a hub id.
        out: the folder to write.
        config: what is free to choose: the robot, the chunk, the experts' widths; PaliGemma's own sizes are replaced.
        depth: add a depth expert.
        seed: of the first values.

    Raises:
        UserError: the checkpoint is no PaliGemma, is not whole, or lacks its tokenizer.
    """
    check_free(out)
    folder = local_folder(source, HUB_FILES)
    config = with_paligemma_sizes(config, read_json(folder / "config.json", "PaliGemma"), folder / "config.json")
    config = replace(config, depth=fresh_depth(config.vision) if depth else None)
    tokenizer = find_tokenizer(None, folder, config.vocab_size)
    conversion = plan(open_checkpoint(folder), KEYS, config)
    return write_policy(out, conversion, tokenizer, None, seed, source)


def with_paligemma_sizes(config: QDepthVLAConfig, values: Any, path: Path) -> QDepthVLAConfig:
    """``config`` with the sizes of a PaliGemma, which transformers' configuration gives.

    Raises:
        UserError: it is of another model, or not readable; ``path`` is named.
    """
    kind = values.get("model_type") if isinstance(values, Mapping) else None
    if kind != "paligemma":
        raise UserError(f"{path} is of a {kind!r} model; a 'paligemma' is expected")
    theirs = transformers_config(PaliGemmaConfig, values, path)
    text, vision = theirs.text_config, theirs.vision_config
    if (text.model_type, vision.model_type) != ("gemma", "siglip_vision_model"):
        raise UserError(f"{path} is of a PaliGemma with {text.model_type!r} inside; only the first, with 'gemma', fits")
    return replace(
        config,
        vision=VisionConfig(
            width=vision.hidden_size,
            mlp=vision.intermediate_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch=vision.patch_size,
            norm_eps=vision.layer_norm_eps,
        ),
        vlm_width=text.hidden_size,
        vlm_mlp=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        norm_eps=text.rms_norm_eps,
        rope_theta=float(text.rope_parameters["rope_theta"]),
        vocab_size=text.vocab_size,
        depth=None,
    )


def transformers_config(kind: type[PreTrainedConfig], values: Any, path: Path) -> Any:
    """A configuration of transformers from its JSON.

    Raises:
        UserError: it is none of this kind; ``path`` is named.
    """
    try:
        return kind.from_dict(dict(values))
    except Exception as error:  # its own checks raise several kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no configuration of a {kind.model_type} model ({reason})") from None
