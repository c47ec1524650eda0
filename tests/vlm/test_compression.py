"""Compression keeps the low frequencies of a grid of tokens."""

import math

import pytest
import torch

from fathom.vlm.compression import compress


def grid_of(function, height, width):
    """Tokens of two features: the function of the cell's place in [0, 1], and 1."""
    places = [((row + 0.5) / height, (column + 0.5) / width) for row in range(height) for column in range(width)]
    return torch.tensor([[function(y, x), 1.0] for y, x in places])


def test_factor_one_changes_nothing():
    tokens = torch.randn(12, 5)
    assert compress(tokens, 3, 4, 1) is tokens


@pytest.mark.parametrize("vertical, horizontal", [(0, 0), (1, 0), (0, 2), (2, 1)])
def test_a_slow_wave_is_the_same_wave_on_fewer_tokens(vertical, horizontal):
    def wave(y, x):
        return math.cos(math.pi * vertical * y) * math.cos(math.pi * horizontal * x)

    found = compress(grid_of(wave, 9, 12), 9, 12, 3)
    assert torch.allclose(found, grid_of(wave, 3, 4), atol=1e-5)


def test_a_fast_wave_is_lost():
    found = compress(grid_of(lambda y, x: math.cos(math.pi * 7 * x), 8, 8), 8, 8, 2)
    assert torch.allclose(found[:, 0], torch.zeros(16), atol=1e-5)


def test_sides_that_do_not_divide_are_rounded_up():
    assert compress(torch.randn(5 * 7, 3), 5, 7, 2).shape == (3 * 4, 3)
