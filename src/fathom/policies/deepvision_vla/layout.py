"""Where each token of the prompt stands, in the sequence and in Qwen's three-axis positions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.mixture.dinov3 import patch_centres
from fathom.policies.deepvision_vla.config import DeepVisionVLAConfig


@dataclass(frozen=True)
class Layout:
    """The prompt: an opening, each camera's image tokens, the instruction.

    Positions are as transformers' Qwen3-VL counts them (``get_rope_index``): a word moves all three axes by one; an
    image is a grid whose rows and columns count from where the image begins, and moves what follows by its side.

    Attributes:
        opening: tokens before the first image.
        frame: tokens directly before and directly behind each image, one each or none.
        cameras: how many images.
        grid: tokens along one side of an image.
        text: of the instruction, padding included.
    """

    opening: int
    frame: int
    cameras: int
    grid: int
    text: int

    @classmethod
    def of(cls, config: DeepVisionVLAConfig) -> "Layout":
        """The layout of a policy."""
        opening, frame = config.framing
        return cls(opening, frame, len(config.cameras), config.vision.grid, config.text_tokens)

    @property
    def words(self) -> int:
        """Tokens that are the same in every prompt: the opening, and one frame for all images."""
        return self.opening + 2 * self.frame

    def image(self, camera: int) -> slice:
        """The image tokens of a camera in the prompt."""
        begin = self.opening + camera * (self.grid**2 + 2 * self.frame) + self.frame
        return slice(begin, begin + self.grid**2)

    @property
    def instruction(self) -> slice:
        """The tokens of the instruction in the prompt."""
        begin = self.opening + self.cameras * (self.grid**2 + 2 * self.frame)
        return slice(begin, begin + self.text)

    def place(self, camera: int) -> int:
        """The position of an image's first token."""
        return self.opening + camera * (self.grid + 2 * self.frame) + self.frame

    def join(self, words: Tensor, images: Float[Tensor, "batch cameras patches width"], text: Tensor) -> Tensor:
        """The prompt's tokens, from those of its parts.

        Args:
            words: see :attr:`words`; (batch, words, width).
            text: of the instruction; (batch, text, width).
        """
        opening, before, behind = words.split([self.opening, self.frame, self.frame], 1)
        framed = [piece for image in images.unbind(1) for piece in (before, image, behind)]
        return torch.cat([opening, *framed, text], 1)

    def positions(
        self, text_valid: Bool[Tensor, "batch text"], suffix: int
    ) -> tuple[Int[Tensor, "batch prompt 3"], Int[Tensor, "batch {suffix} 3"]]:
        """Of the prompt's tokens, and of as many tokens behind its last valid one."""
        device = text_valid.device
        pieces = [_line(0, self.opening, device)]
        for camera in range(self.cameras):
            place = self.place(camera)
            before, behind = _line(place - self.frame, self.frame, device), _line(place + self.grid, self.frame, device)
            pieces += [before, _square(place, self.grid, device), behind]
        text_begin = self.place(self.cameras) - self.frame
        prompt = torch.cat([*pieces, _line(text_begin, self.text, device)])
        behind = (text_begin + text_valid.long().sum(1))[:, None, None] + _line(0, suffix, device)
        return prompt.expand(len(text_valid), -1, -1), behind

    def image_positions(self, camera: int, device: torch.device) -> Int[Tensor, "patches 3"]:
        """Of a camera's image tokens alone."""
        return _square(self.place(camera), self.grid, device)

    def expert_positions(
        self, camera: int, prefix: int, grid: int, scale: float | Tensor, device: torch.device
    ) -> Float[Tensor, "tokens 5"]:
        """Of a vision expert's tokens for the same picture, on a grid of another side.

        Args:
            prefix: tokens that stand for no place; they are where the image begins.
            scale: of the expert's own coordinates; 1 but in training.

        Returns:
            the position among the prompt's tokens (time, height, width: fractions between the image tokens'), and the
            expert's own (y, x) in [-1, 1].
        """
        own = patch_centres(grid, device)
        place = self.place(camera)
        shared = place + (own + 1) / 2 * self.grid - 0.5
        patches = torch.cat([torch.full_like(own[:, :1], place), shared, own * scale], 1)
        first = torch.tensor([place, place, place, 0, 0], dtype=own.dtype).to(device)
        return torch.cat([first.expand(prefix, -1), patches])


def _line(begin: int, length: int, device: torch.device) -> Int[Tensor, "{length} 3"]:
    return torch.arange(begin, begin + length, device=device)[:, None].expand(-1, 3)


def _square(begin: int, side: int, device: torch.device) -> Int[Tensor, "{side*side} 3"]:
    axis = torch.arange(begin, begin + side, device=device)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([torch.full_like(rows, begin), rows, columns], -1).flatten(0, 1)
