"""The same as open-pi-zero, but without a cache: every flow step runs all tokens.

So does its own ``infer_action_naive``: pictures and text are embedded once, and the language model runs in every step.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fathom.policies.qdepth_vla.inputs import Inputs
from peers.open_pi_zero import OpenPiZero


class Recompute(OpenPiZero):
    """The peer without a cache."""

    @torch.no_grad()
    def chunk(
        self, inputs: Inputs, noise: Float[Tensor, "batch horizon action"]
    ) -> Float[Tensor, "batch horizon action"]:
        """See :class:`OpenPiZero`."""
        seen = self._embed(inputs)
        mask = self._mask(inputs)

        def velocity(point: Tensor, time: Tensor) -> Tensor:
            tokens = {**seen, "action": self._encode_actions(point, time)}
            return self.policy.action_decoder(self._joint(tokens, mask, caches={})["action"])

        return self._integrate(velocity, noise.to(inputs.pixels.dtype))
