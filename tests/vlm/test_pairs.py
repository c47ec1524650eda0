"""RGB-D pairs: made from folders and datasets, resumed, and changed alike for training."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image
from tests.vlm.questions.test_writing import write_dataset

from fathom.cli.main import main
from fathom.data.dataset import open_dataset
from fathom.depth.depth_map import DepthVideo
from fathom.errors import UserError
from fathom.vlm import pairs as module
from fathom.vlm.pairs import PairMaking, flip_and_turn, held_out, make_pairs, read_pairs

MAKING = PairMaking("transformers", "weights")


class Grey:
    """An estimator that takes brightness for depth, and counts what it was asked."""

    def __init__(self, kind="metric"):
        self.kind, self.asked = kind, 0

    def estimate(self, frames, *, episode=None):
        self.asked += len(frames)
        values = frames[..., 0].astype(np.float32) / 50
        return DepthVideo(values, self.kind, values > 0, {"estimator": "grey"})


@pytest.fixture
def estimator(monkeypatch):
    grey = Grey()
    monkeypatch.setattr(module, "open_estimator", lambda *_, **__: grey)
    return grey


@pytest.fixture
def photos(tmp_path):
    """Four pictures in two folders, two of them of one name, and one that is no picture."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "a.jpg", "deep/b.png", "c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        grey = np.repeat(rng.integers(20, 250, (10, 14, 1), dtype=np.uint8), 3, axis=-1)
        Image.fromarray(grey).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "c.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "notes.txt").write_text("not looked at")
    return tmp_path / "photos"


def as_library_data(photos):
    """Two columns of the same pictures, of which one is bad, and one of words."""
    files = [str(photos / name) for name in ("a.png", "deep/b.png", "c.png")]
    kinds = {"photo": datasets.Image(), "copy": datasets.Image(), "words": datasets.Value("string")}
    rows = {"photo": files, "copy": files[::-1], "words": ["one", "two", "three"]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


@pytest.mark.parametrize("stored", ["saved", "splits", "parquet"])
def test_pictures_of_the_datasets_library(photos, estimator, tmp_path, monkeypatch, stored):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source, split = tmp_path / "library", "train"
    if stored == "saved":
        as_library_data(photos).save_to_disk(str(source))
    elif stored == "splits":
        split = "test"
        datasets.DatasetDict(test=as_library_data(photos)).save_to_disk(str(source))
    else:
        source.mkdir()
        as_library_data(photos).to_parquet(str(source / "train-00000-of-00001.parquet"))
    making = replace(MAKING, column="copy", split=split)
    made = make_pairs(source, making, tmp_path / "pairs")
    assert made.pairs == 2 and list(made.skipped) == ["00000000"]
    found, _ = read_pairs(tmp_path / "pairs")
    for pair, name in zip(found, ("deep/b.png", "a.png"), strict=True):
        assert np.array_equal(Image.open(pair.image), Image.open(photos / name))

    for column, sentence in ((None, "photo, copy: name one with --column"), ("words", "no column 'words' of pictures")):
        with pytest.raises(UserError, match=sentence):
            make_pairs(source, replace(making, column=column), tmp_path / "none")
    if stored != "saved":  # which is one split, whatever its name
        with pytest.raises(UserError, match="split 'validation'"):
            make_pairs(source, replace(making, split="validation"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_pictures_get_depth_and_the_unreadable_are_named(photos, estimator, tmp_path):
    made = make_pairs(photos, MAKING, tmp_path / "pairs")
    assert made.pairs == 3 and list(made.skipped) == ["c"] and "cannot be read as a picture" in made.skipped["c"]
    found, kind = read_pairs(tmp_path / "pairs")
    assert kind == "metric" and [pair.name for pair in found] == ["a_jpg", "a_png", "deep/b"]
    for pair in found:
        rgb, depth = np.asarray(Image.open(pair.image)), np.asarray(Image.open(pair.depth))
        assert depth.dtype == np.uint16 and np.array_equal(depth, rgb[..., 0].astype(int) * 20)  # g / 50 m
    assert (tmp_path / "pairs/images/a_jpg.jpg").read_bytes() == (photos / "a.jpg").read_bytes()


def test_what_is_done_is_not_done_again(photos, estimator, tmp_path):
    make_pairs(photos, MAKING, tmp_path / "pairs")
    asked = estimator.asked
    (tmp_path / "pairs/depth/a_png.png").unlink()  # as if it had been interrupted there
    Image.new("RGB", (10, 10), (100, 100, 100)).save(photos / "c.png")
    assert make_pairs(photos, MAKING, tmp_path / "pairs").pairs == 4
    assert estimator.asked == asked + 2
    with pytest.raises(UserError, match="holds pairs with another weights"):
        make_pairs(photos, PairMaking("transformers", "others"), tmp_path / "pairs")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/notes.txt").touch()
    with pytest.raises(UserError, match="something else is already here"):
        make_pairs(photos, MAKING, tmp_path / "others")


@pytest.mark.parametrize("place", ["photos", "photos/pairs", "photos/deep/../pairs", "link/pairs"])
def test_pairs_are_not_put_among_their_own_pictures(photos, estimator, tmp_path, place):
    (tmp_path / "link").symlink_to(photos)
    before = sorted(photos.rglob("*"))
    with pytest.raises(UserError, match=r"lies in .*/photos, .* choose another folder"):
        make_pairs(photos, MAKING, tmp_path / place)
    assert sorted(photos.rglob("*")) == before and not estimator.asked


def test_every_picture_has_a_name_of_its_own(estimator, tmp_path):
    files = ["x.png", "x.jpg", "x_png.jpg", "x_png_.bmp", "x_jpg.png", "x_jpg.bmp"]
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(files, 1):
        Image.new("RGB", (10, 14), (30 * number,) * 3).save(tmp_path / "photos" / name)
    made = make_pairs(tmp_path / "photos", MAKING, tmp_path / "pairs")
    found, _ = read_pairs(tmp_path / "pairs")
    assert made.pairs == len(found) == len(files) and not made.skipped
    copied = sorted(pair.image.read_bytes() for pair in found)
    assert copied == sorted((tmp_path / "photos" / name).read_bytes() for name in files)
    assert {"x_png", "x_png_"} < {pair.name for pair in found}  # unlike any other, they keep their names
    assert make_pairs(tmp_path / "photos", MAKING, tmp_path / "pairs").pairs == len(files)
    assert estimator.asked == len(files)


def test_relative_depth_keeps_its_order(photos, estimator, tmp_path):
    estimator.kind = "relative_inverse"
    make_pairs(photos, MAKING, tmp_path / "pairs")
    found, kind = read_pairs(tmp_path / "pairs")
    assert kind == "relative_inverse"
    rgb, depth = np.asarray(Image.open(found[1].image))[..., 0], np.asarray(Image.open(found[1].depth))
    assert depth.min() > 0 and depth.max() == 65535
    assert np.all(np.diff(depth.ravel()[np.argsort(rgb.ravel())].astype(int)) >= 0)


def test_the_command_ends_with_1_where_pictures_were_left_out(photos, estimator, tmp_path, capsys):
    command = ["vlm", "pairs", str(photos), "--weights", "w", "--out", str(tmp_path / "pairs")]
    assert main(command) == 1
    assert "c skipped: " in capsys.readouterr().out
    (photos / "c.png").unlink()
    (tmp_path / "pairs").rename(tmp_path / "first")
    assert main(command) == 0


def test_recorded_depth_of_a_dataset(tmp_path):
    root = write_dataset(tmp_path / "boxes", episodes=2)
    made = make_pairs(root, PairMaking("recorded", every=2), tmp_path / "pairs")
    found, _ = read_pairs(tmp_path / "pairs")
    assert made.pairs == 4 and [pair.name for pair in found][:2] == ["000000-0000", "000000-0002"]
    frames = open_dataset(root, cameras=["main"], depth=["main_depth"])
    true = frames.picture("observation.images.main_depth", 2)[0]
    depth = np.asarray(Image.open(found[1].depth)) / 1000
    known = true < frames.info.features["observation.images.main_depth"].depth_codec.maximum
    assert np.allclose(depth[known], true[known], atol=0.0006) and not depth[~known].any()


@pytest.mark.parametrize(
    ("source", "making", "told"),
    [
        ("photos", PairMaking("recorded"), "has no recorded depth"),
        ("empty", MAKING, "has no pictures"),
        ("nowhere/at/all", MAKING, "datasets|neither a folder"),
    ],
)
def test_sources_that_are_refused(photos, estimator, tmp_path, source, making, told):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=told):
        make_pairs(tmp_path / source, making, tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="has no pairs"):
        read_pairs(tmp_path)
    for folder, name in (("depth", "a.png"), ("depth", "b.png"), ("images", "a.jpg")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("I;16", (4, 4), 1000).save(tmp_path / folder / name, format="PNG")
    with pytest.raises(UserError, match=r"depth/b.png has no picture of that name"):
        read_pairs(tmp_path)


def test_two_pictures_of_one_name_are_told(tmp_path):
    for folder, name in (("depth", "a.png"), ("images", "a.jpg"), ("images", "a.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("L", (4, 4), 9).save(tmp_path / folder / name)
    with pytest.raises(UserError, match=r"images/a.jpg and a.png have one name"):
        read_pairs(tmp_path)


def test_frames_of_an_episode_are_not_parted(tmp_path):
    pairs = [module.Pair(f"{number // 5:06d}-{number % 5:04d}", tmp_path, tmp_path) for number in range(20)]
    learn, test = held_out(pairs, 0.25)
    assert len(test) == 5 and len(learn) == 15
    assert not {pair.scene for pair in learn} & {pair.scene for pair in test}
    with pytest.raises(UserError, match="the 5 pairs show 1 scenes: none can be held out"):
        held_out(pairs[:5], 0.25)


def test_pairs_held_out_are_none_to_learn_from(tmp_path):
    pairs = [module.Pair(str(number), tmp_path, tmp_path) for number in range(20)]
    learn, test = held_out(pairs, 0.25)
    assert len(test) == 5 and not {one.name for one in learn} & {one.name for one in test}
    assert held_out(pairs, 0.25) == (learn, test) != held_out(pairs, 0.25, seed=1)
    with pytest.raises(UserError, match="at least 4"):
        held_out(pairs[:3], 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_both_are_mirrored_and_turned_alike(seed):
    """A picture whose grey is its depth still is one afterwards."""
    rows, columns = np.mgrid[0:40, 0:60]
    grey = (40 + 2 * rows + columns).astype(np.uint8)
    image, depth = flip_and_turn(
        Image.fromarray(np.stack([grey] * 3, axis=-1)), grey.astype(np.float32), np.random.default_rng(seed), 10.0
    )
    shown = np.asarray(image)[..., 0].astype(float)
    inner = (depth > 0) & (shown > 30)
    assert inner.mean() > 0.8 and np.abs(shown - depth)[inner].max() <= 4  # one is interpolated, the other is not
    assert not np.array_equal(depth, grey) and set(np.unique(depth)) <= {0.0, *map(float, np.unique(grey))}
    assert (depth[0, 0] == 0) == (shown[0, 0] == 0)


def test_the_record_says_how_they_were_made(photos, estimator, tmp_path):
    make_pairs(photos, MAKING, tmp_path / "pairs")
    record = json.loads((tmp_path / "pairs/pairs.json").read_text())
    assert record["kind"] == "metric" and record["weights"] == "weights" and record["pairs"] == 3
