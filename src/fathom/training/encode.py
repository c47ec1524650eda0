"""Depth codes that are written into a dataset, so that a training need not compute them again for every batch."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.extend import FeatureAdder
from fathom.data.features import Feature, camera_name
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.progress import progress_bar
from fathom.training.device import pick_device
from fathom.training.tokenizer import check_kind, encode_all
from fathom.weights import fingerprint

CODES = "depth.codes"
"""The feature's name, unless another is chosen."""

RECORD = "depth_codes.json"
"""In a dataset's ``meta/``: for each feature with codes the tokenizer's fingerprint and which depth they are of."""


def encode(
    root: str | Path,
    tokenizer: DepthTokenizer,
    *,
    name: str = CODES,
    depth: str | None = None,
    console: Console | None = None,
) -> int:
    """Add the codes of every frame's depth to a dataset; run it again after an interruption and it goes on.

    The dataset's fingerprint changes with its features: do this before anything is trained on it.

    Args:
        name: of the new feature, integers of shape (tokens,).
        depth: whose codes, as ``noisy_depth``; by default that of the camera ``main``, or the only one.

    Returns:
        how many episodes there are.

    Raises:
        UserError: the dataset lacks the depth, it is of another kind, the tokenizer has no codes, or the feature is
            there already.
    """
    root = Path(root)
    config = tokenizer.config
    dataset = open_dataset(root, cameras=(), depth=[depth] if depth else True)
    feature = dataset.depth_feature
    assert feature is not None  # it was opened with depth
    check_kind(config, dataset)
    if not config.has_codes:
        raise UserError("this depth tokenizer is a continuous VAE (quantizer 'none'): there are no codes to write")
    made_from = {"tokenizer": fingerprint(tokenizer), "depth": feature}
    kind = Feature.vector(config.grid**2, "int16" if config.codes <= np.iinfo(np.int16).max + 1 else "int32")
    adder = FeatureAdder(root, name, kind, made_from)
    tokenizer = tokenizer.to(pick_device())
    with progress_bar(console) as bar:
        task = bar.add_task("encoding", total=len(adder.episodes), note="episodes")
        bar.update(task, completed=len(adder.episodes) - len(adder.missing))
        for episode in adder.missing:
            one = open_dataset(root, cameras=(), depth=[camera_name(feature)], episodes=[episode])
            codes = encode_all(tokenizer, partial(_depth, one, feature), len(one))
            adder.stage(episode, codes.numpy().astype(kind.dtype), {})
            bar.advance(task)
    adder.finish({RECORD: {**_record(root), name: made_from}})
    return len(adder.episodes)


def stored_codes(dataset: LeRobotDataset, tokenizer: DepthTokenizer) -> str | None:
    """The feature that holds this tokenizer's codes of the depth that a policy learns; ``None`` if there are none.

    Raises:
        UserError: there are codes of that depth, and all are another tokenizer's.
    """
    known = {name: made for name, made in _record(dataset.root).items() if name in dataset.info.features}
    others = {name: made["tokenizer"] for name, made in known.items() if made["depth"] == dataset.depth_feature}
    if not others:
        return None
    own = fingerprint(tokenizer)
    for name, theirs in others.items():
        if theirs == own:
            return name
    name, theirs = next(iter(others.items()))
    raise UserError(
        f"{dataset.root}: {name} holds the codes of another depth tokenizer ({theirs}, this one is {own}): "
        f"give that one, or add this one's by `fathom tokenizer encode … --name {name}_2`"
    )


def _depth(dataset: LeRobotDataset, feature: str, frames: range) -> Tensor:
    return torch.from_numpy(np.stack([dataset.picture(feature, frame) for frame in frames]))


def _record(root: Path) -> Mapping[str, Any]:
    path = root / "meta" / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}
