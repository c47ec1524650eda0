"""Does an imported open-pi-zero compute what open-pi-zero computed? (``fathom verify open-pi-zero``)"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fathom.errors import UserError
from fathom.mixture import GemmaStream
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.qdepth_vla.inputs import Inputs
from fathom.policies.weights.checkpoint import open_checkpoint
from fathom.policies.weights.conversion import plan
from fathom.policies.weights.open_pi_zero import Sizes, keys
from fathom.weights import first_few, load_weights, shape_text


@torch.no_grad()
def verify_open_pi_zero(prefix: str | Path, tolerance: float = 1e-4) -> dict[str, Any]:
    """Import recorded weights, and compare what they give with what was recorded (layout: ``tests/golden/README.md``).

    Args:
        prefix: path of ``.config.json``, ``.weights.safetensors`` and ``.cases.safetensors`` up to those endings.
        tolerance: largest difference that counts as the same.

    Returns:
        ``{"ok", "max": {name: largest absolute difference}, "tolerance": {name: bound}}`` for ``prefix_embeddings``,
        ``loss`` and ``actions``.

    Raises:
        UserError: a file is missing or damaged, or the three do not belong together.
    """
    sizes = Sizes.read(Path(f"{prefix}.config.json"))
    cases_path = Path(f"{prefix}.cases.safetensors")
    cases = _read_cases(cases_path, sizes)
    policy = _imported(Path(f"{prefix}.weights.safetensors"), sizes)
    inputs = _inputs(cases, sizes, cases_path)

    image, text = policy.embed_prefix(inputs)
    computed = {
        "prefix_embeddings": torch.cat([image, text], 1) / sizes.vlm.width**0.5,
        "loss": policy.action_error(inputs, cases["actions"], cases["noise"], cases["t"]).mean(),
        "actions": policy.chunk(inputs, cases["noise"]),
    }
    largest = {name: _difference(ours, cases[f"expected_{name}"]) for name, ours in computed.items()}
    ok = all(difference <= tolerance for difference in largest.values())
    return {"ok": ok, "max": largest, "tolerance": dict.fromkeys(largest, tolerance)}


def _imported(weights: Path, sizes: Sizes) -> QDepthVLA:
    """The policy by way of a file of ours, as ``fathom import open-pi-zero`` writes it."""
    conversion = plan(open_checkpoint(weights), keys(sizes.config), sizes.config)
    with tempfile.TemporaryDirectory() as folder:
        conversion.write(Path(folder) / "model.safetensors", seed=0)
        policy = QDepthVLA(sizes.config)
        load_weights(policy, Path(folder) / "model.safetensors")
    # There, places with the padding's id are never looked up but hold the id itself.
    cast(GemmaStream, policy.mixture.streams["vlm"]).embed_tokens.weight[sizes.pad_token_id] = sizes.pad_token_id
    return policy.eval()


def _read_cases(path: Path, sizes: Sizes) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(path)
    batch = checkpoint.entries["input_ids"].shape[:1] if "input_ids" in checkpoint.entries else (1,)
    side, tokens, chunk = sizes.siglip.image_size, sizes.max_image_text_tokens, (sizes.horizon, sizes.action_dim)
    shapes: Mapping[str, tuple[int, ...]] = {
        "input_ids": (*batch, tokens),
        "attention_mask": (*batch, tokens),
        "pixel_values": (*batch, 3, side, side),
        "proprio": (*batch, 1, sizes.proprio_dim),
        "noise": (*batch, *chunk),
        "actions": (*batch, *chunk),
        "t": batch,
        "expected_prefix_embeddings": (*batch, tokens, sizes.vlm.width),
        "expected_loss": (1,),
        "expected_actions": (*batch, *chunk),
    }
    complaints = []
    for name, shape in shapes.items():
        found = checkpoint.entries[name].shape if name in checkpoint.entries else None
        if found is None:
            complaints.append(f"missing {name}")
        elif found != shape and not (name == "expected_loss" and found == ()):
            complaints.append(f"{name} is {shape_text(found)}, expected {shape_text(shape)}")
    if complaints:
        raise UserError(f"{path} does not fit the configuration beside it: {first_few(complaints)}")
    return {name: checkpoint.read(name) for name in shapes}


def _inputs(cases: Mapping[str, Tensor], sizes: Sizes, path: Path) -> Inputs:
    ids: Int[Tensor, "batch tokens"] = cases["input_ids"]
    images = sizes.image_tokens
    if not torch.equal(ids == sizes.image_token_index, (torch.arange(ids.shape[1]) < images).expand_as(ids)):
        raise UserError(
            f"{path}: input_ids should be {images} times the image token {sizes.image_token_index}, then text"
        )
    if ids.min() < 0 or ids[:, images:].max() >= sizes.vocab_size:
        raise UserError(
            f"{path}: input_ids reach from {ids.min()} to {ids.max()}, and there are {sizes.vocab_size} words"
        )
    # How many tokens are valid is all that open-pi-zero takes from the mask.
    valid = torch.arange(ids.shape[1]) < cases["attention_mask"].sum(1, keepdim=True)
    return Inputs(cases["pixel_values"][:, None], ids[:, images:], valid[:, images:], cases["proprio"][:, 0])


def _difference(ours: Float[Tensor, "*shape"], theirs: Float[Tensor, "*shape"]) -> float:
    largest = (ours.double() - theirs.double().reshape(ours.shape)).abs().max()
    return float(largest.nan_to_num(nan=torch.finfo(torch.float32).max))
