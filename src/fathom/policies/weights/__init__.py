"""Checkpoints of other code bases, as policies of this one."""

from fathom.policies.weights.folder import Imported
from fathom.policies.weights.open_pi_zero import import_open_pi_zero
from fathom.policies.weights.paligemma import import_paligemma
from fathom.policies.weights.pi0 import import_pi0
from fathom.policies.weights.qwen3_vl import import_qwen3_vl
from fathom.policies.weights.verify import verify_open_pi_zero

__all__ = [
    "Imported",
    "import_open_pi_zero",
    "import_paligemma",
    "import_pi0",
    "import_qwen3_vl",
    "verify_open_pi_zero",
]
