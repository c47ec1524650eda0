"""Conditional flow matching: from noise to an action chunk along straight lines.

Source: QDepth-VLA section 3.4.2; open-pi-zero and openpi, which run the same flow in opposite directions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Flow:
    """A straight flow between noise and data.

    Attributes:
        data_time: the time at which the flow arrives at the data; noise is at the other end of [0, 1].
        sigma_min: how much of the noise is left at the data's end.
    """

    data_time: float
    sigma_min: float = 0.0

    def time_of(self, uniform: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Training times made of uniform numbers in [0, 1): denser near the noise, and never quite at the data.

        They are 0.999 (1 - Beta(1.5, 1)) away from the noise; the inverse of that distribution's cumulative function,
        x ** 1.5, makes each from one number.
        """
        return self._time(0.999 * (1 - uniform ** (2 / 3)))

    def interpolate(
        self,
        actions: Float[Tensor, "batch horizon action"],
        noise: Float[Tensor, "batch horizon action"],
        time: Float[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch horizon action"], Float[Tensor, "batch horizon action"]]:
        """The point of the flow at ``time``, and its velocity there: what the model learns to predict."""
        progress = self._time(time)[:, None, None]
        point = progress * actions + (1 - (1 - self.sigma_min) * progress) * noise
        velocity = actions - (1 - self.sigma_min) * noise
        return point, velocity if self.data_time == 1 else -velocity

    def integrate(
        self,
        velocity: Callable[
            [Float[Tensor, "batch horizon action"], Float[Tensor, " batch"]], Float[Tensor, "batch horizon action"]
        ],
        noise: Float[Tensor, "batch horizon action"],
        steps: int,
    ) -> Float[Tensor, "batch horizon action"]:
        """Follow the velocity from noise to data in equal Euler steps."""
        point, step = noise, 1 / steps
        for index in range(steps):
            time = self._time(torch.full_like(noise[:, 0, 0], index * step))
            toward_data = velocity(point, time)
            point = point + step * (toward_data if self.data_time == 1 else -toward_data)
        return point

    def _time(self, progress: Tensor) -> Tensor:
        """Progress from noise (0) to data (1) as the family's own time, and back: the map is its own inverse."""
        return progress if self.data_time == 1 else 1 - progress
