"""First values for the parts that a checkpoint does not have."""

import copy
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from fathom.mixture import LogitBias
from fathom.policies.depth_expert.targets import Codes


def fresh_tensors(model: nn.Module, keys: Collection[str], seed: int) -> Iterator[tuple[str, Tensor]]:
    """The values that a new model would have, one module at a time.

    Args:
        model: on the meta device, so that it takes no memory however large it is.
        keys: of its state dict: those that are wanted.
        seed: the same seed gives the same values.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            own = [*module.named_parameters(name, recurse=False), *module.named_buffers(name, recurse=False)]
            if not any(key in keys for key, _ in own):
                continue
            module = copy.deepcopy(module).to_empty(device="cpu", recurse=False)
            _initialise(module)
            for leaf, tensor in module.state_dict().items():
                if f"{name}.{leaf}" in keys:
                    yield f"{name}.{leaf}", tensor


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    match module:
        case nn.Linear() | nn.Conv2d():
            module.reset_parameters()
        case LogitBias():
            module.values.fill_(module.start)
        case Qwen3VLTextRMSNorm():
            module.weight.fill_(1)
        case GemmaRMSNorm():
            module.weight.zero_()  # Gemma's norm multiplies by one plus its weight
        case Codes():  # both are the tokenizer's to give
            module.codebook.zero_()
            module.temperature.fill_(1)
        case _:
            raise TypeError(f"no first values are known for a {type(module).__name__}")
