"""Which device does the work."""

import os

import torch


def pick_device() -> torch.device:
    """The GPU if there is one: under ``torchrun`` this process's own, else the first."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
