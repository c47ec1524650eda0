"""The action chunk compiled by torch.inductor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from fathom.policies.qdepth_vla.inputs import Inputs

if TYPE_CHECKING:
    from fathom.policies.qdepth_vla.model import QDepthVLA


def compile_chunk(policy: "QDepthVLA", batch: int) -> None:
    """Replace what computes the chunk by its compiled form, without a graph break, and run it once for this batch size.

    On a GPU the whole chunk becomes one graph, captured as one CUDA graph. On a CPU prefix and flow step are a graph
    each (unrolled ten times, the flow takes twice as long to compile), with the weights packed for oneDNN, whose fp32
    products are much faster than MKL's on some processors; that takes memory for a second copy of the weights.
    """
    on_gpu = policy.device.type == "cuda"
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    if on_gpu:
        policy.chunk = torch.compile(policy.chunk, mode="reduce-overhead", **options)  # type: ignore[method-assign]
    else:
        policy._prefix = torch.compile(policy._prefix, **options)  # type: ignore[method-assign]
        policy._velocity = torch.compile(policy._velocity, **options)  # type: ignore[method-assign]
    config, device, dtype = policy.config, policy.device, policy.action_decoder.weight.dtype
    side = config.vision.image_size
    inputs = Inputs(
        pixels=torch.zeros(batch, len(config.cameras), 3, side, side, device=device),
        text=torch.zeros(batch, config.text_tokens, dtype=torch.long, device=device),
        text_valid=torch.ones(batch, config.text_tokens, dtype=torch.bool, device=device),
        state=torch.zeros(batch, config.state_dim, device=device),
    )
    with torch.no_grad(), _packed_weights(dtype == torch.float32 and not on_gpu):
        policy.chunk(inputs, torch.zeros(batch, *policy.noise_shape, device=device))


@contextmanager
def _packed_weights(wanted: bool) -> Iterator[None]:
    """What is compiled inside has its weights laid out for oneDNN.

    Inductor leaves fp32 products to MKL unless lower precision is allowed while it compiles; the compiled products
    follow the setting at run time, which is full fp32 again.
    """
    import torch._inductor.config as inductor

    if not wanted:
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with inductor.patch(freezing=True):
            yield
    finally:
        matmul.fp32_precision = before
