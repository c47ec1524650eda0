"""π0 in PyTorch: openpi's own layout, lerobot's older and newer ones, and transformers'."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import GemmaConfig

from fathom.config import read_json
from fathom.data.normalization import Normalization
from fathom.errors import UserError
from fathom.hub import local_folder
from fathom.policies.qdepth_vla import QDepthVLAConfig
from fathom.policies.weights.checkpoint import Checkpoint, open_checkpoint
from fathom.policies.weights.conversion import KeyMap, plan
from fathom.policies.weights.folder import Imported, check_free, find_tokenizer, fresh_depth, write_policy
from fathom.policies.weights.paligemma import (
    ACTION,
    FRESH_DEPTH,
    HUB_FILES,
    POOLING,
    paligemma_prefixes,
    paligemma_tied,
    transformers_config,
    with_paligemma_sizes,
)
from fathom.policies.weights.statistics import lerobot_normalization, openpi_normalization

_LINEARS = {
    "state_proj.": "proprio_encoder.",
    "action_in_proj.": "action_encoder.linear_1.",
    "action_time_mlp_in.": "action_encoder.linear_2.",
    "action_time_mlp_out.": "action_encoder.linear_3.",
    "action_out_proj.": "action_decoder.",
}

_OPENPI = {
    **paligemma_prefixes("paligemma_with_expert.paligemma."),
    "paligemma_with_expert.gemma_expert.model.": ACTION,
    **_LINEARS,
}
_TRANSFORMERS = {
    **paligemma_prefixes("model.vlm."),
    "model.dit.": ACTION,
    **{f"embed_action_time.{theirs}": ours for theirs, ours in _LINEARS.items()},
}

KEYS = KeyMap(
    prefixes={**_OPENPI, **{f"model.{theirs}": ours for theirs, ours in _OPENPI.items()}, **_TRANSFORMERS},
    tied={
        **paligemma_tied("paligemma_with_expert.paligemma."),
        **paligemma_tied("model.paligemma_with_expert.paligemma."),  # lerobot's names are openpi's behind a "model."
    },
    unread=(
        *POOLING,
        "*gemma_expert.lm_head.*",  # the expert speaks no words …
        "model.dit.embed_tokens.*",  # … and reads none
        "normalize_inputs.*",  # lerobot's older statistics: see `lerobot_normalization`
        "normalize_targets.*",
        "unnormalize_outputs.*",
    ),
    fresh=FRESH_DEPTH,
)

RELEASED = QDepthVLAConfig(
    state_dim=32, action_dim=32, horizon=50, vocab_size=257_152, text_tokens=48, conventions="openpi", depth=None
)
"""The published π0: PaliGemma-3B, chunks of 50 actions, state and actions padded to 32, 48 text tokens."""

_WIDTHS = {"gemma_300m": (1024, 4096), "gemma_2b": (2048, 16384)}
_MIN_PERIOD = 0.004


def import_pi0(
    source: str | Path,
    out: Path,
    *,
    tokenizer: str | Path | None = None,
    statistics: Path | None = None,
    cameras: tuple[str, ...] = ("main",),
    depth: bool = True,
    seed: int = 0,
) -> Imported:
    """π0 with all its weights, and a depth expert with first values beside them.

    Without the depth expert the actions are π0's; with it they change, because they read its tokens.

    Args:
        source: a folder, a safetensors file or a hub id; without a ``config.json`` the published sizes are taken.
        out: the folder to write.
        tokenizer: PaliGemma's ``tokenizer.json``, a folder or a hub id with it; ``None`` to look beside the checkpoint.
        statistics: openpi's ``norm_stats.json``; ``None`` to take lerobot's, if they are beside the weights.
        cameras: in the order in which the checkpoint knows them.
        depth: add a depth expert; without it the policy is π0 itself.
        seed: of the first values.

    Raises:
        UserError: the checkpoint is no π0, is not whole, or something it needs is missing.
    """
    check_free(out)
    path = local_folder(source, HUB_FILES)
    checkpoint = open_checkpoint(path)
    _check_no_pi05(checkpoint)
    values = read_json(path / "config.json", "π0") if (path / "config.json").is_file() else {}
    config = _sizes(values, path / "config.json")
    try:
        config = replace(config, cameras=cameras, depth=fresh_depth(config.vision) if depth else None)
    except ValueError as error:
        raise UserError(str(error)) from None
    conversion = plan(checkpoint, KEYS, config)
    normalization = openpi_normalization(statistics) if statistics else _saved(checkpoint, values)
    words = find_tokenizer(tokenizer, path, config.vocab_size)
    return write_policy(out, conversion, words, normalization, seed, source)


def _check_no_pi05(checkpoint: Checkpoint) -> None:
    for key in checkpoint.entries:
        if key.startswith(("time_mlp_in.", "model.time_mlp_in.")) or "layernorm.dense." in key:
            raise UserError(
                f"{checkpoint.path} is a π0.5 ({key} belongs to its adaptive norms), and only π0 can be imported"
            )


def _saved(checkpoint: Checkpoint, values: Mapping[str, Any]) -> Normalization | None:
    modes = values.get("normalization_mapping") or {}
    if other := {modes[name] for name in ("STATE", "ACTION") if name in modes} - {"MEAN_STD"}:
        raise UserError(f"{checkpoint.path} was trained with {', '.join(other)} scaling; π0 has MEAN_STD")
    return lerobot_normalization(checkpoint)


def _sizes(values: Mapping[str, Any], path: Path) -> QDepthVLAConfig:
    """From a ``config.json`` of transformers, lerobot or openpi, which have different fields."""
    if values.get("type", "pi0") != "pi0" or values.get("model_type", "pi0") != "pi0":
        raise UserError(f"{path} is of a {values.get('type', values.get('model_type'))!r} model; a 'pi0' is expected")
    for name in ("use_relative_actions", "use_delta_joint_actions_aloha", "adapt_to_pi_aloha"):
        if values.get(name):
            raise UserError(f"{path}: with {name} its actions are not those of the robot, and cannot be imported")
    if values.get("min_period", _MIN_PERIOD) != _MIN_PERIOD:
        raise UserError(f"{path}: min_period is {values['min_period']}; π0's is {_MIN_PERIOD}")
    try:
        config = _of_transformers(values, path) if "vlm_config" in values else _of_variants(values)
        return replace(
            config,
            state_dim=int(values.get("max_state_dim", values.get("action_dim", config.state_dim))),
            action_dim=int(values.get("max_action_dim", values.get("action_dim", config.action_dim))),
            horizon=int(values.get("chunk_size", values.get("action_horizon", config.horizon))),
            text_tokens=int(values.get("tokenizer_max_length", config.text_tokens)),
            flow_steps=int(values.get("num_inference_steps", values.get("num_steps", config.flow_steps))),
            time_max_period=values.get("max_period"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no configuration of a π0 ({error!r})") from None


def _of_transformers(values: Mapping[str, Any], path: Path) -> QDepthVLAConfig:
    config = with_paligemma_sizes(RELEASED, values["vlm_config"], path)
    expert = transformers_config(GemmaConfig, values["dit_config"], path)
    for name, ours in {"num_hidden_layers": config.layers, "num_attention_heads": config.heads,
                       "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim}.items():  # fmt: skip
        if getattr(expert, name) != ours:
            raise UserError(f"{path}: {name} is {getattr(expert, name)} in the expert and {ours} in the language model")
    theta = float(expert.rope_parameters["rope_theta"])
    return replace(
        config, expert_width=expert.hidden_size, expert_mlp=expert.intermediate_size, expert_rope_theta=theta
    )


def _of_variants(values: Mapping[str, Any]) -> QDepthVLAConfig:
    vlm = _WIDTHS[values.get("paligemma_variant", "gemma_2b")]
    expert = _WIDTHS[values.get("action_expert_variant", "gemma_300m")]
    size = values.get("image_resolution", (RELEASED.vision.image_size,))[0]
    return replace(
        RELEASED,
        vlm_width=vlm[0],
        vlm_mlp=vlm[1],
        expert_width=expert[0],
        expert_mlp=expert[1],
        vision=replace(RELEASED.vision, image_size=size),
    )
