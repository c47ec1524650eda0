"""The tokenizer's convolutions: from a depth picture to a grid of vectors, and back."""

from torch import Tensor, nn


class Encoder(nn.Sequential):
    """Halves the picture at each of ``widths`` (channels, coarsest last) and gives ``channels`` for every grid cell."""

    def __init__(self, widths: list[int], channels: int) -> None:
        layers: list[nn.Module] = []
        for level, (before, after) in enumerate(zip([1, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
            layers.append(_Residual(after) if level >= len(widths) - 2 else nn.SiLU())
        super().__init__(*layers, nn.Conv2d(widths[-1], channels, 1))


class Decoder(nn.Sequential):
    """Doubles the grid at each of ``widths`` (channels, coarsest first) and ends in a picture of one channel."""

    def __init__(self, channels: int, widths: list[int]) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        for level, (before, after) in enumerate(zip(widths, [*widths[1:], 1], strict=True)):
            layers.append(_Residual(before) if level < 2 else nn.SiLU())
            layers += [nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2)]
        super().__init__(*layers)


class _Residual(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(
            nn.GroupNorm(min(8, width // 4), width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(min(8, width // 4), width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
