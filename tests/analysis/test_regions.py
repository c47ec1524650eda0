"""Where the region is."""

import numpy as np
import pytest
import torch

from fathom.analysis import Box, Named, Region
from fathom.analysis.regions import draw_regions, region_tokens
from fathom.errors import UserError

from .conftest import OBJECT, SIZE, write_dataset


def expected_pixels():
    pixels = np.zeros((SIZE, SIZE), bool)
    pixels[OBJECT] = True
    return pixels


@pytest.mark.parametrize("name", [None, "drawer", "drawer_1"])
def test_an_object_by_its_label_its_name_or_the_instruction(name, dataset):
    """The instruction is "open the drawer"."""
    frames = Named(name).open(dataset, "validation")
    regions = draw_regions(frames, Named(name), 5, seed=0)
    assert len(regions) == 5 and {region.name for region in regions} == {"drawer"}
    assert [region.frame for region in regions] == sorted({region.frame for region in regions})
    assert all(np.array_equal(region.pixels, expected_pixels()) for region in regions)
    assert [r.frame for r in draw_regions(frames, Named(name), 5, seed=0)] == [r.frame for r in regions]
    assert len(draw_regions(frames, Named(name), 100, seed=0)) == len(frames) == 8


@pytest.mark.parametrize("name", ["mug", "faucet"])  # not there at all, and three pixels of it
def test_an_object_that_no_frame_shows(name, dataset):
    source = Named(name)
    with pytest.raises(UserError, match=rf"no frame shows the object '{name}' .* objects are: drawer, faucet; .*--box"):
        draw_regions(source.open(dataset, None), source, 5, seed=0)


def test_a_dataset_without_segmentation(tmp_path):
    root = write_dataset(tmp_path / "plain", segmentation=False)
    with pytest.raises(UserError, match=r"no observation\.images\.main_segmentation .* --segmentation, or .* by --box"):
        Named("drawer").open(root, None)
    assert len(draw_regions(Box(0, 0, 10, 10).open(root, None), Box(0, 0, 10, 10), 3, seed=0)) == 3


def test_a_box(dataset):
    box = Box(20, 10, 30, 20)
    (region,) = draw_regions(box.open(dataset, None), box, 1, seed=0)
    assert np.array_equal(region.pixels, expected_pixels())
    assert region.name == "box 20 10 30 20"


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 5, 41), (9, 0, 9, 5), (30, 0, 45, 5)])
def test_a_box_outside_of_the_picture(box, dataset):
    with pytest.raises(UserError, match=r"--box .* within the picture of 40 x 40 pixels"):
        Box(*box).open(dataset, None)


def test_a_box_that_leaves_too_little(dataset):
    with pytest.raises(UserError, match="more than a quarter"):
        Box(0, 0, 21, 20).open(dataset, None)


def test_a_token_belongs_to_the_region_that_covers_half_of_it_or_else_most():
    halves = np.zeros((8, 8), bool)
    halves[0:4, 0:3] = True  # three quarters of the first patch of 2 x 2
    halves[4:8, 4:5] = True  # a quarter of the last
    corner = np.zeros((8, 8), bool)
    corner[3:5, 4] = True  # one pixel in each of two patches: the first
    tokens = region_tokens([Region(0, halves, ""), Region(1, corner, "")], 2)
    assert torch.equal(tokens, torch.tensor([[True, False, False, False], [False, True, False, False]]))
