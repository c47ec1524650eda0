"""The encodings of depth, against the published formulas."""

import math

import numpy as np
import torch

from fathom.depth.depth_map import LogRange
from fathom.vlm.depth_encoding import (
    depth_positional_encoding,
    min_max,
    one_channel,
    pack_millimetres,
    pool_cells,
    unpack_millimetres,
)


def test_packing_follows_spatialbot_for_every_millimetre():
    """Against its formula, one number at a time, over all of uint16; and nothing is lost."""
    depth = torch.arange(65536).reshape(256, 256)
    picture = pack_millimetres(depth)
    assert picture.dtype == torch.uint8 and picture.shape == (3, 256, 256)
    formula = [[d // 1024 * 4, (d // 32 * 8) % 256, (d % 32) * 8] for d in range(65536)]
    assert np.array_equal(picture.flatten(1).T.numpy(), np.array(formula))
    assert torch.equal(unpack_millimetres(picture), depth)


def test_packing_of_a_batch_keeps_its_axes():
    depth = torch.randint(0, 65536, (2, 5, 4, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack_millimetres(pack_millimetres(depth)), depth)
    assert torch.equal(pack_millimetres(depth)[1, 3], pack_millimetres(depth[1, 3]))


def test_positional_encoding_is_sd_vlms():
    width, depth = 12, 37.25
    encoding = depth_positional_encoding(torch.tensor([depth, 0.0], dtype=torch.bfloat16), width)
    assert encoding.dtype == torch.float32
    for k in range(width // 2):
        omega = 10000 ** (-k / (width / 2))
        assert math.isclose(encoding[0, 2 * k], math.sin(depth * omega), abs_tol=1e-5)
        assert math.isclose(encoding[0, 2 * k + 1], math.cos(depth * omega), abs_tol=1e-5)
    assert encoding[1].tolist() == [0, 1] * (width // 2)


def test_min_max_runs_over_known_cells_alone():
    depth = torch.tensor([2.0, 0.0, 6.0, 3.0])
    assert min_max(depth, depth > 0, 100.0).tolist() == [0, 0, 100, 25]
    alike = torch.full((3,), 4.0)
    assert min_max(alike, alike > 0, 100.0).tolist() == [0, 0, 0]


def test_cells_are_means_of_known_pixels():
    patches = torch.tensor([[1.0, 3.0], [0.0, 5.0], [0.0, 0.0], [0.0, 0.0]])
    values, known = pool_cells(patches, patches_per_cell=2)
    assert values.tolist() == [3, 0] and known.tolist() == [True, False]


def test_one_channel_is_centred_and_zero_where_nothing_is_known():
    metres = torch.tensor([0.0, 0.1, math.sqrt(10.0), 100.0, 1000.0])
    found = one_channel(metres, LogRange(0.1, 100.0))
    assert torch.allclose(found, torch.tensor([0.0, -2.0, 0.0, 2.0, 2.0]), atol=1e-6)
    assert one_channel(torch.tensor([0.0, 1.0, 0.25]), None).tolist() == [0, 2, -1]
