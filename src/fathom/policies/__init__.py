"""Policies: from an observation to an action chunk."""

from pathlib import Path

from fathom.config import read_json
from fathom.errors import UserError
from fathom.policies.policy import Losses, Policy
from fathom.policies.qdepth_vla import QDepthVLA

POLICIES: dict[str, type[Policy]] = {policy.kind: policy for policy in (QDepthVLA,)}


def load_policy(folder: str | Path) -> Policy:
    """Read a saved policy, ready for inference.

    Raises:
        UserError: there is none, or its parts do not fit together.
    """
    path = Path(folder) / "config.json"
    values = read_json(path, "policy")
    kind = values.pop("type", None)
    if kind not in POLICIES:
        raise UserError(f"{path} says type {kind!r}; the policies known here are {sorted(POLICIES)}")
    return POLICIES[kind].load(path.parent, values)


__all__ = ["POLICIES", "Losses", "Policy", "load_policy"]
