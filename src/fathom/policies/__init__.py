"""Policies: from an observation to an action chunk."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fathom.config import read_json
from fathom.errors import UserError
from fathom.hub import local_folder
from fathom.policies.deepvision_vla import DeepVisionVLA
from fathom.policies.losses import Losses
from fathom.policies.policy import Policy, PolicyConfig
from fathom.policies.qdepth_vla import QDepthVLA

POLICY_FILES = ("*.json", "*.safetensors", "depth_tokenizer/*")
"""What a saved policy consists of."""

POLICIES: dict[str, type[Policy]] = {policy.kind: policy for policy in (QDepthVLA, DeepVisionVLA)}


def policy_type(config: PolicyConfig) -> type[Policy]:
    """The architecture that a configuration is of."""
    return next(policy for policy in POLICIES.values() if isinstance(config, policy.config_type))


def parameter_count(policy: nn.Module) -> int:
    """The parameters of a policy, without those of its frozen depth tokenizer."""
    return sum(p.numel() for name, p in policy.named_parameters() if not name.startswith("depth_tokenizer."))


def load_policy(source: str | Path, *, dtype: torch.dtype = torch.float32, **download: Any) -> Policy:
    """Read a saved policy, ready for inference.

    Args:
        source: its folder, or the hub id of one.
        dtype: of the weights; ``torch.bfloat16`` halves the memory and is how large policies act.
        download: for the hub: ``revision``, ``token`` and whatever else ``snapshot_download`` takes.

    Raises:
        UserError: there is none, or its parts do not fit together.
    """
    folder = local_folder(source, POLICY_FILES, **download)
    values = read_json(folder / "config.json", "policy")
    kind = values.pop("type", None)
    if kind not in POLICIES:
        raise UserError(f"{folder}/config.json says type {kind!r}; the policies known here are {sorted(POLICIES)}")
    return POLICIES[kind].load(folder, values, dtype)


__all__ = ["POLICIES", "Losses", "Policy", "load_policy", "parameter_count", "policy_type"]
