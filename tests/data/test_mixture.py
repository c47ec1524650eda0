"""Mixtures of datasets: shares, order, and samples that fit each other."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.test_batches import assert_same
from torch.nn import functional as F

from fathom.data.dataset import open_dataset
from fathom.data.features import Feature
from fathom.data.mixture import Mixture, MixtureLoader, open_mixture
from fathom.data.mixture_config import MixtureConfig, MixturePart, VectorMap
from fathom.data.mixture_order import MixtureOrder
from fathom.data.normalization import Normalization
from fathom.data.resize import resize
from fathom.data.writer import DatasetWriter
from fathom.depth.depth_map import DepthKind
from fathom.errors import UserError


def write(
    root: Path, lengths: list[int], cameras: dict[str, int], state: int, action: int, depth: DepthKind | None = None
) -> None:
    features = {f"observation.images.{name}": Feature.rgb(size, size) for name, size in cameras.items()}
    features |= {"observation.state": Feature.vector(state), "action": Feature.vector(action)}
    if depth:
        features["observation.images.main_depth"] = Feature.depth(20, 24, depth)
    writer = DatasetWriter(root, features, fps=10)
    random = np.random.default_rng(len(lengths))
    for episode, length in enumerate(lengths):
        frames: dict[str, Any] = {}
        for name, feature in features.items():
            if feature.kind == "rgb":
                levels = random.integers(0, 255, size=(length, 1, 1, 3)) + np.zeros((1, *feature.shape[:2], 1), int)
                frames[name] = levels.astype(np.uint8)
            elif feature.kind == "depth":
                frames[name] = random.uniform(0.2, 0.9, size=(length, 20, 24)).astype(np.float32)
            else:
                frames[name] = (5 + 2 * random.normal(size=(length, *feature.shape))).astype(np.float32)
        writer.stage_episode(episode, frames, f"{root.name} {episode}")
    writer.finish({"train": range(len(lengths) - 1), "test": range(len(lengths) - 1, len(lengths))})


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three robots: other cameras, other sizes, other numbers."""
    root = tmp_path_factory.mktemp("robots")
    write(root / "widowx", [7, 6, 5], {"image_0": 32, "image_3": 24}, state=4, action=3, depth="metric")
    write(root / "google", [9, 4], {"image": 40}, state=6, action=5, depth="metric")
    write(root / "panda", [5, 3], {"main": 32, "wrist": 32}, state=4, action=3, depth="relative_inverse")
    return root


def widowx(roots: Path, **values: Any) -> MixturePart:
    part = MixturePart(str(roots / "widowx"), weight=3.0, cameras={"main": "image_0"})
    return replace(part, **values)


def google(roots: Path, **values: Any) -> MixturePart:
    part = MixturePart(
        str(roots / "google"),
        weight=1.0,
        cameras={"main": "image"},
        state=VectorMap(components=(5, 0, 1, 2, 3)),
        actions=VectorMap(components=(0, 1, 4), flip=(2,)),
    )
    return replace(part, **values)


def config(*parts: MixturePart, **values: Any) -> MixtureConfig:
    return MixtureConfig(parts, horizon=2, image_size=24, **values)


def order(weights: list[float], lengths: list[int], batch_size: int = 8, **values: Any) -> MixtureOrder:
    shares = [weight / sum(weights) for weight in weights]
    return MixtureOrder(lengths, shares, batch_size, **{"seed": 3, **values})


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 10**9), st.integers(1, 3000))
def test_shares_are_kept_to_within_one_sample_per_dataset(weights: list[float], begin: int, count: int) -> None:
    mixture = order(weights, [10] * len(weights))
    for first, bound in ((0, 1), (begin, 2)):  # what lies between two places is a difference of two counts
        datasets, _ = mixture.draw(np.arange(first, first + count))
        for part, weight in enumerate(weights):
            drawn = int((datasets == part).sum())
            assert abs(drawn - count * weight / sum(weights)) < bound * len(weights)


def test_exact_shares_by_calculation() -> None:
    datasets, counts = order([5, 3, 2], [10] * 3).draw(np.arange(1000))
    assert np.bincount(datasets).tolist() == [500, 300, 200]
    # within every ten: five of the first, and the rest in turns of 3 to 2
    assert np.bincount(datasets[:10]).tolist() == [5, 3, 2]
    for part in range(3):  # each dataset's samples are numbered one by one
        assert counts[datasets == part].tolist() == list(range((datasets == part).sum()))


def test_no_frame_comes_twice_before_all_came_once() -> None:
    lengths = [7, 11]
    mixture = order([2, 1], lengths)
    places = [place for step in range(40) for place in mixture.places(step)]
    for part, length in enumerate(lengths):
        frames = [frame for number, frame in places if number == part]
        epochs = [frames[i : i + length] for i in range(0, len(frames) - length + 1, length)]
        assert len(epochs) > 5 and all(sorted(epoch) == list(range(length)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1  # another order every time


def test_the_order_follows_from_seed_and_step_alone() -> None:
    undisturbed = list(islice(order([2, 3], [7, 9]), 30))
    assert list(islice(order([2, 3], [7, 9], start_step=17), 13)) == undisturbed[17:]
    assert list(islice(order([2, 3], [7, 9], seed=4), 30)) != undisturbed


def test_ranks_share_the_samples_of_one_process() -> None:
    alone = order([2, 3], [7, 9], batch_size=12)
    ranks = [order([2, 3], [7, 9], batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    for step in (0, 5, 40):
        assert [place for rank in ranks for place in rank.places(step)] == alone.places(step)


def test_samples_are_those_of_their_datasets(roots: Path) -> None:
    mixture = open_mixture(config(widowx(roots), google(roots)))
    assert mixture.shares == [0.75, 0.25] and len(mixture) == 18 + 13
    places = [(1, 4), (0, 17), (0, 2), (1, 12), (0, 2)]
    batch = mixture.batch(places)
    assert batch.images.keys() == {"main"} and batch.images["main"].shape == (5, 3, 24, 24)
    assert batch.index is not None and batch.index.tolist() == [22, 17, 2, 30, 2]
    assert batch.instruction == ["google 0", "widowx 2", "widowx 0", "google 1", "widowx 0"]
    for row, (part, frame) in enumerate(places):
        name, camera = (("widowx", "image_0"), ("google", "image"))[part]
        dataset = open_dataset(roots / name, cameras=[camera], horizon=2)
        own = dataset.batch([frame])
        assert torch.equal(batch.images["main"][row], resize(own.images[camera], 24)[0])
        assert torch.equal(batch.action_is_pad[row], own.action_is_pad[0])
        low, high = (torch.from_numpy(np.float32(dataset.stats["action"][key])) for key in ("q01", "q99"))
        action = (2 * (own.actions[0] - low) / (high - low) - 1).clamp(-1, 1)
        expected = action if part == 0 else torch.stack([action[:, 0], action[:, 1], -action[:, 4]], dim=1)
        torch.testing.assert_close(batch.actions[row], expected, atol=1e-5, rtol=0)
        low, high = (torch.from_numpy(np.float32(dataset.stats["observation.state"][key])) for key in ("q01", "q99"))
        state = (2 * (own.state[0] - low) / (high - low) - 1).clamp(-1, 1)
        expected = F.pad(state, (0, 1)) if part == 0 else state[[5, 0, 1, 2, 3]]
        torch.testing.assert_close(batch.state[row], expected, atol=1e-5, rtol=0)


def test_the_policy_learns_normalised_actions_and_acts_in_the_robots_units(roots: Path, tmp_path: Path) -> None:
    mixture = open_mixture(config(widowx(roots), google(roots, name="robot")))
    batch = mixture.batch([(0, 0), (1, 3)])
    assert torch.equal(mixture.normalization.state.normalize(batch.state), batch.state)
    assert torch.equal(mixture.normalization.actions.normalize(batch.actions), batch.actions)
    mixture.normalization_of("robot").save(tmp_path)
    robot = Normalization.load(tmp_path)
    own = open_dataset(roots / "google", horizon=2).batch([3]).actions[0][:, [0, 1, 4]]
    back = robot.actions.unnormalize(batch.actions[1])
    inside = batch.actions[1].abs() < 1  # the rest was clipped
    torch.testing.assert_close(back[inside], own[inside], atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="no dataset 'google'; there is: widowx, robot"):
        mixture.normalization_of("google")


def test_depth_keeps_its_values(roots: Path) -> None:
    mixture = open_mixture(config(widowx(roots), google(roots), depth_size=16))
    batch = mixture.batch([(1, 2), (0, 1)])
    assert batch.depth is not None and batch.depth.shape == (2, 1, 16, 16)
    own = open_dataset(roots / "google", depth=True).batch([2]).depth
    assert own is not None and set(batch.depth[0].unique().tolist()) <= set(own.unique().tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_goes_on_from_any_step(roots: Path, workers: int) -> None:
    mixture = open_mixture(config(widowx(roots, split="train"), google(roots)))
    undisturbed = list(islice(MixtureLoader(mixture, 4, seed=1), 6))
    resumed = list(islice(MixtureLoader(mixture, 4, seed=1, start_step=3, workers=workers), 3))
    for ours, theirs in zip(resumed, undisturbed[3:], strict=True):
        assert_same(ours, theirs)
    first = torch.cat([batch.index for batch in undisturbed])  # type: ignore[misc]
    assert int((first < 13).sum()) == 18  # three of four from the training split of 13 frames


def test_a_damaged_frame_is_told_without_a_traceback(roots: Path, tmp_path: Path) -> None:
    write(tmp_path / "bad", [5, 4], {"image_0": 32}, state=4, action=3)
    mixture = open_mixture(config(widowx(tmp_path, path=str(tmp_path / "bad"))))
    next((tmp_path / "bad" / "videos").rglob("*.mp4")).unlink()
    with pytest.raises(UserError, match="this video is missing"):
        next(iter(MixtureLoader(mixture, 2, seed=0, workers=1)))


def test_a_mixture_is_a_file(roots: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixture.json"
    parts = [
        {"path": str(roots / "widowx"), "weight": 2, "cameras": {"main": "image_0"}},
        {
            "path": str(roots / "google"),
            "cameras": {"main": "image"},
            "actions": {"components": [0, 1, 4], "flip": [2]},
            "name": "google",
        },
    ]
    path.write_text(json.dumps({"parts": parts, "horizon": 2, "image_size": 24}))
    mixture: Mixture = open_mixture(path)
    assert mixture.shares == [2 / 3, 1 / 3] and mixture.action_size == 3 and mixture.state_size == 6
    parts[0]["wieght"] = parts[0].pop("weight")
    path.write_text(json.dumps({"parts": parts}))
    with pytest.raises(UserError, match="wieght"):
        open_mixture(path)


def test_bad_mixtures_are_one_sentence(roots: Path) -> None:
    both = {"main": "image_0", "wrist": "image_3"}
    panda = MixturePart(str(roots / "panda"))
    for parts, values, sentence in (
        ((), {}, "at least one dataset"),
        ((widowx(roots), widowx(roots)), {}, "two datasets of the mixture are called 'widowx'"),
        ((widowx(roots, weight=0.0),), {}, "weight 0.0 should be a number above 0"),
        ((widowx(roots, cameras={}),), {}, "gives the cameras none"),
        ((widowx(roots, cameras=both), google(roots)), {}, "google gives the cameras main, widowx gives main, wrist"),
        ((widowx(roots, cameras={"main": "front"}),), {}, "no camera 'front'; there is: image_0, image_3"),
        ((widowx(roots), google(roots, actions=VectorMap())), {}, "google has 5 numbers in an action, widowx has 3"),
        ((widowx(roots, actions=VectorMap((0, 3))),), {}, "components names number 3, but there are only 3"),
        ((widowx(roots, state=VectorMap(flip=(4,))),), {}, "flip names number 4, but there are only 4"),
        ((widowx(roots), panda), {"depth_size": 16}, "depth of panda is relative_inverse, that of widowx is metric"),
        ((widowx(roots, depth="other"),), {"depth_size": 16}, "no depth feature 'other'"),
        ((widowx(roots, split="val"),), {}, "no split 'val'"),
        ((widowx(roots),), {"depth_size": 0}, "a picture needs a pixel"),
    ):
        with pytest.raises(UserError) as error:
            open_mixture(config(*parts, **values))
        assert sentence in str(error.value)
    open_mixture(config(widowx(roots), panda))  # without depth the two may be mixed
