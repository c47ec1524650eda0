"""Depth from files: units, holes, and everything that can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.depth.estimators import open_estimator
from fathom.errors import UserError

TRUE = np.random.default_rng(0).uniform(0.4, 3.0, (5, 6, 8)).astype(np.float32)
FRAMES = np.zeros((5, 6, 8, 3), np.uint8)


def millimetres(metres: np.ndarray = TRUE) -> np.ndarray:
    return (metres * 1000).round().astype(np.uint16)


def estimate(folder: Path, frames: np.ndarray = FRAMES, episode: int | None = 0):
    return open_estimator("recorded", folder).estimate(frames, episode=episode)


def write_pictures(folder: Path, depth: np.ndarray, pattern: str = "{}.png") -> None:
    folder.mkdir()
    for number, picture in enumerate(depth):
        Image.fromarray(picture).save(folder / pattern.format(number))


@pytest.mark.parametrize("form", ["npz", "npz with more", "npy", "pictures"])
def test_millimetres_become_metres(tmp_path, form):
    if form == "npz":
        np.savez_compressed(tmp_path / "episode_000007.npz", anything=millimetres())
    elif form == "npz with more":
        np.savez(tmp_path / "episode_000007.npz", depth=millimetres(), stamps=np.arange(5))
    elif form == "npy":
        np.save(tmp_path / "episode_000007.npy", millimetres())
    else:
        write_pictures(tmp_path / "episode_000007", millimetres())
    depth = estimate(tmp_path, episode=7)
    assert depth.kind == "metric" and depth.valid.all()
    np.testing.assert_allclose(depth.values, TRUE, atol=6e-4)
    assert depth.provenance["unit"] == "mm"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_metres_stay_metres(tmp_path, dtype):
    np.save(tmp_path / "episode_000000.npy", TRUE.astype(dtype))
    np.testing.assert_allclose(estimate(tmp_path).values, TRUE, rtol=1e-3)


def test_holes_are_not_depth(tmp_path):
    holed = TRUE.copy()
    for frame, hole in enumerate((0.0, np.nan, np.inf, -1.0)):
        holed[frame, 1, 2] = hole
    np.save(tmp_path / "episode_000000.npy", holed)
    depth = estimate(tmp_path)
    assert np.argwhere(~depth.valid).tolist() == [[frame, 1, 2] for frame in range(4)]
    assert (depth.values[~depth.valid] == 0).all()
    np.testing.assert_array_equal(depth.values[depth.valid], TRUE[depth.valid])


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    depth = np.full((12, 6, 8), 1000, np.uint16) + np.arange(12, dtype=np.uint16)[:, None, None]
    write_pictures(tmp_path / "episode_000000", depth)  # 10.png comes behind 9.png
    values = estimate(tmp_path, np.zeros((12, 6, 8, 3), np.uint8)).values
    assert values[:, 0, 0] == pytest.approx(1 + np.arange(12) / 1000)


@pytest.mark.parametrize(
    ("depth", "sentence"),
    [
        (TRUE * 1000, "about 1000 times too large: it seems to hold millimetres as floats"),
        (TRUE.round().astype(np.uint16), "about 1000 times too small: it seems to hold metres as integers"),
        (TRUE / 1000, "about 1000 times too small: it seems to have been divided by 1000"),
        ((TRUE * 1e6).astype(np.uint32), "about 1000 times too large: it seems to be in a finer unit"),
        (TRUE * 1e6, "between 0.03 and 30 m"),
    ],
)
def test_a_wrong_unit_is_named(tmp_path, depth, sentence):
    np.save(tmp_path / "episode_000000.npy", depth)
    with pytest.raises(UserError, match=sentence) as error:
        estimate(tmp_path)
    assert "episode_000000.npy" in str(error.value)


def test_holes_do_not_hide_a_wrong_unit(tmp_path):
    depth = TRUE * 1000
    depth[:, :5] = 0
    np.save(tmp_path / "episode_000000.npy", depth)
    with pytest.raises(UserError, match="millimetres as floats"):
        estimate(tmp_path)


def test_depth_that_is_nowhere_valid(tmp_path):
    np.save(tmp_path / "episode_000000.npy", np.zeros_like(TRUE))
    depth = estimate(tmp_path)
    assert not depth.valid.any()
    with pytest.raises(UserError, match="no pixel"):
        depth.stored()


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (TRUE[:4], "has 4 frames of depth and the episode 5 of colour"),
        (TRUE[:, :3], "is 3x8 and the frames are 6x8 pixels"),
        (TRUE[0], r"shape \(6, 8\), expected \(frames, height, width\)"),
        (np.ones((5, 6, 8), np.uint8), "type uint8"),
        (np.ones((5, 6, 8), bool), "type bool"),
        (np.array([object()]), "no array of numbers"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, array, sentence):
    np.save(tmp_path / "episode_000000.npy", array)
    with pytest.raises(UserError, match=sentence):
        estimate(tmp_path)


def test_files_that_do_not_fit(tmp_path):
    np.savez(tmp_path / "episode_000000.npz", a=TRUE, b=TRUE)
    np.savez(tmp_path / "episode_000001.npz", TRUE)
    whole = (tmp_path / "episode_000001.npz").read_bytes()
    (tmp_path / "episode_000001.npz").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "episode_000002.npy", TRUE)
    np.savez(tmp_path / "episode_000002.npz", TRUE)
    (tmp_path / "episode_000003").mkdir()
    write_pictures(tmp_path / "episode_000004", np.ones((5, 6, 8), np.uint8))
    write_pictures(tmp_path / "episode_000005", millimetres())
    Image.fromarray(millimetres()[0, :3]).save(tmp_path / "episode_000005" / "3.png")
    write_pictures(tmp_path / "episode_000006", millimetres())
    (tmp_path / "episode_000006" / "2.png").write_bytes(b"\x89PNG")
    sentences = {
        0: "arrays a, b: call that of the depth 'depth'",
        1: "cut short",
        2: "both episode_000002.npz and episode_000002.npy",
        3: "no .png",
        4: "type L: depth is a 16-bit PNG",
        5: "all must be alike",
        6: "cut short or no picture",
        9: "neither episode_000009.npz nor .npy",
        None: "none was given",
    }
    for episode, sentence in sentences.items():
        with pytest.raises(UserError, match=sentence):
            estimate(tmp_path, episode=episode)


def test_folders_that_hold_no_depth(tmp_path):
    for weights, sentence in (
        (None, "needs the folder"),
        (tmp_path / "none", "no such folder"),
        (tmp_path, "expected ep"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_estimator("recorded", weights)
    np.save(tmp_path / "episode_000000.npy", TRUE)
    with pytest.raises(UserError, match="leave out the size"):
        open_estimator("recorded", tmp_path, size=100)
