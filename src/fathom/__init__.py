"""Fathom: a sense of depth for vision-language-action models.

The names below are what a script needs; each is imported when it is first used, because torch takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.data.batch import Batch, Observation
    from fathom.data.dataset import open_dataset
    from fathom.depth.tokenizer import load_tokenizer
    from fathom.errors import UserError
    from fathom.policies import load_policy
    from fathom.simulation import make_env

_HOME = {
    "Batch": "fathom.data.batch",
    "Observation": "fathom.data.batch",
    "UserError": "fathom.errors",
    "load_policy": "fathom.policies",
    "load_tokenizer": "fathom.depth.tokenizer",
    "make_env": "fathom.simulation",
    "open_dataset": "fathom.data.dataset",
}

__all__ = ["Batch", "Observation", "UserError", "load_policy", "load_tokenizer", "make_env", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fathom' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
