"""What stands before the action expert's transformer."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fathom.policies.conventions import Conventions


class ActionEncoder(nn.Module):
    """Noisy actions and the flow time to tokens: Linear, join the time, Linear, SiLU, Linear."""

    def __init__(self, action_dim: int, width: int, conventions: Conventions) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(action_dim, width)
        self.linear_2 = nn.Linear(2 * width, width)
        self.linear_3 = nn.Linear(width, width)
        self.conventions = conventions

    def forward(
        self, actions: Float[Tensor, "batch horizon action"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch horizon width"]:
        """Embed each step of the noisy chunk."""
        embedded = self.linear_1(actions)
        when = self.conventions.time_embedding(time, embedded.shape[-1])
        when = when[:, None].to(embedded.dtype).expand_as(embedded)
        joined = (when, embedded) if self.conventions.time_first else (embedded, when)
        return self.linear_3(F.silu(self.linear_2(torch.cat(joined, -1))))
