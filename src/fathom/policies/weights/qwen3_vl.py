"""Qwen3-VL and DINOv3: the language model and the vision expert that a DeepVision-VLA starts from."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import DINOv3ViTConfig, Qwen3VLConfig

from fathom.config import read_json, write_config
from fathom.errors import UserError
from fathom.files import write_file
from fathom.hub import hub_id, local_folder
from fathom.policies.card import Provenance
from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig, ExpertConfig
from fathom.policies.deepvision_vla.prompt import ChatTokenizer
from fathom.policies.weights.checkpoint import Checkpoint, open_checkpoint
from fathom.policies.weights.conversion import KeyMap, plan
from fathom.policies.weights.folder import Imported, check_free
from fathom.policies.weights.paligemma import HUB_FILES, transformers_config

Config = TypeVar("Config")

LANGUAGE, VISION = "language/", "vision/"
"""What stands before the names of the two checkpoints' tensors, so that they are one."""

VLM, EXPERT = "mixture.streams.vlm.", "mixture.streams.expert.own."
FRESH = (
    "mixture.streams.expert.alignments.", "mixture.bias.", "mixture.streams.depth.", "depth_head.", "proprio_encoder.",
    "action_head.",
)  # fmt: skip


def import_qwen3_vl(
    language: str | Path,
    vision: str | Path | None,
    out: Path,
    config: DeepVisionVLAConfig,
    *,
    kv_heads: int | None = None,
    seed: int = 0,
) -> Imported:
    """A start for training: Qwen3-VL's and DINOv3's weights, and first values for what joins them.

    Args:
        language: a folder of transformers' ``Qwen3VLForConditionalGeneration``, or a hub id.
        vision: a folder of transformers' ``DINOv3ViTModel``, or a hub id; ``None`` for the baseline without it.
        out: the folder to write.
        config: what is free to choose; the two models' own sizes are replaced.
        kv_heads: of the vision expert: as many as the language model has key heads (the default), or heads.
        seed: of the first values.

    Raises:
        UserError: a checkpoint is of another model, is not whole, lacks its tokenizer, or ``config`` does not fit it.
    """
    check_free(out)
    parts = {LANGUAGE: local_folder(language, HUB_FILES)}
    path, wished = parts[LANGUAGE] / "config.json", config.expert or ExpertConfig()
    config = with_qwen_sizes(config, read_json(path, "Qwen3-VL"), path)
    if vision is None:
        config = replace(config, expert=None)
    else:
        parts[VISION] = local_folder(vision, HUB_FILES)
        path = parts[VISION] / "config.json"
        expert = with_dinov3_sizes(wished, read_json(path, "DINOv3"), path)
        expert = _sized(expert, path, kv_heads=config.kv_heads if kv_heads is None else kv_heads)
        config = _sized(config, path, expert=expert)
    tokenizer = _find_tokenizer(parts[LANGUAGE], config.vocab_size)
    conversion = plan(_joined(parts), _keys(config), config, DeepVisionVLA)
    conversion.write(out / "model.safetensors", seed)
    write_file(out / "tokenizer.json", tokenizer.read_bytes())
    # Qwen3-VL is Apache's; DINOv3 has a licence of its own, for which the hub has no abbreviation.
    Provenance(base=hub_id(language), licence="apache-2.0" if vision is None else "other").save(out)
    write_config(config, out / "config.json", type=DeepVisionVLA.kind)
    return Imported(conversion, None)


def with_qwen_sizes(config: DeepVisionVLAConfig, values: Any, path: Path) -> DeepVisionVLAConfig:
    """``config`` with the sizes of a Qwen3-VL, which transformers' configuration gives.

    Raises:
        UserError: it is of another model, or not readable; ``path`` is named.
    """
    theirs = _read(Qwen3VLConfig, values, path)
    text, tower = theirs.text_config, theirs.vision_config
    sizes = _sized(
        config.vision,
        path,
        width=tower.hidden_size,
        mlp=tower.intermediate_size,
        layers=tower.depth,
        heads=tower.num_heads,
        patch=tower.patch_size,
        merge=tower.spatial_merge_size,
        position_grid=math.isqrt(tower.num_position_embeddings),
        deepstack=tuple(tower.deepstack_visual_indexes),
    )
    config = _sized(
        config,
        path,
        vision=sizes,
        vlm_width=text.hidden_size,
        vlm_mlp=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        norm_eps=text.rms_norm_eps,
        rope_theta=float(text.rope_parameters["rope_theta"]),
        vocab_size=text.vocab_size,
        prompt="chat",
        expert=None,  # until its own sizes are known
    )
    ours, given = (config.qwen("vlm").rope_parameters or {})["mrope_section"], text.rope_parameters.get("mrope_section")
    if given is not None and list(given) != ours:
        raise UserError(f"{path}: mrope_section is {list(given)}; only {ours}, as in Qwen3-VL's own, fits here")
    return config


def with_dinov3_sizes(expert: ExpertConfig, values: Any, path: Path) -> ExpertConfig:
    """``expert`` with the sizes of a DINOv3 vision transformer, which transformers' configuration gives.

    Raises:
        UserError: it is of another model, or not readable; ``path`` is named.
    """
    theirs = _read(DINOv3ViTConfig, values, path)
    mine = _sized(
        expert,
        path,
        encoder="dinov3",
        width=theirs.hidden_size,
        mlp=theirs.intermediate_size,
        layers=theirs.num_hidden_layers,
        heads=theirs.num_attention_heads,
        patch=theirs.patch_size,
        registers=theirs.num_register_tokens,
        gated_mlp=theirs.use_gated_mlp,
    )
    names = ("hidden_act", "rope_theta", "layer_norm_eps", "key_bias")
    if other := [name for name in names if getattr(mine.dinov3(), name) != getattr(theirs, name)]:
        raise UserError(f"{path}: {other[0]} is {getattr(theirs, other[0])}, which no published DINOv3 has")
    return mine


def _sized(config: Config, path: Path, **sizes: Any) -> Config:
    """``config`` with these sizes, which ``path`` gives; a UserError if it cannot have them."""
    try:
        return replace(config, **sizes)  # type: ignore[type-var]
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _read(kind: Any, values: Any, path: Path) -> Any:
    found = values.get("model_type") if isinstance(values, Mapping) else None
    if found != kind.model_type:
        raise UserError(f"{path} is of a {found!r} model; a {kind.model_type!r} is expected")
    return transformers_config(kind, values, path)


def _find_tokenizer(folder: Path, vocab_size: int) -> Path:
    words = ChatTokenizer.load(folder).tokenizer.get_vocab_size(with_added_tokens=True)
    if words > vocab_size:
        raise UserError(f"{folder}/tokenizer.json is of another model: it has {words} words, the model {vocab_size}")
    return folder / "tokenizer.json"


def _joined(parts: Mapping[str, Path]) -> Checkpoint:
    """Both checkpoints as one."""
    opened = {prefix: open_checkpoint(folder) for prefix, folder in parts.items()}
    owner = {prefix + key: (checkpoint, key) for prefix, checkpoint in opened.items() for key in checkpoint.entries}

    def read(name: str) -> Any:
        checkpoint, key = owner[name]
        return checkpoint.read(key)

    return Checkpoint(parts[LANGUAGE], {name: source.entries[key] for name, (source, key) in owner.items()}, read)


def _keys(config: DeepVisionVLAConfig) -> KeyMap:
    """In transformers' older and newer spellings."""
    prefixes = {
        f"{LANGUAGE}{inner}{theirs}": ours
        for inner in ("model.", "")
        for theirs, ours in {"language_model.": VLM, "visual.": "vision_tower."}.items()
    }
    own = f"{EXPERT}" if config.coupling else "whole_expert.mixture.streams.expert."
    for theirs, ours in {"model.layer.": "layers.", "layer.": "layers.", "": ""}.items():
        prefixes[VISION + theirs] = own + ours
    run, layers = (config.expert.layers_run, config.expert.layers) if config.expert else (0, 0)
    unread = tuple(f"{VISION}{inner}layer.{index}.*" for inner in ("", "model.") for index in range(run, layers))
    answers = f"{LANGUAGE}lm_head.*"  # where it answers in words
    return KeyMap(prefixes, unread=(answers, *unread), fresh=(*FRESH, "whole_expert.project."))
