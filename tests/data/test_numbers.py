"""Statistics and normalisation."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.conftest import GOLDEN, Recorded

from fathom.data.dataset import open_dataset
from fathom.data.metadata import read_stats
from fathom.data.normalization import Normalization, NormalizationKind, Scaling
from fathom.errors import UserError


def test_vectors_have_exact_statistics(recorded: Recorded) -> None:
    stats = read_stats(recorded.root)
    for name in ("observation.state", "action", "observation.gripper"):
        values = recorded.all(name).astype(np.float64)
        for key, expected in {
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "q01": np.quantile(values, 0.01, axis=0),
            "q99": np.quantile(values, 0.99, axis=0),
            "count": [len(values)],
        }.items():
            np.testing.assert_allclose(stats[name][key], expected, rtol=1e-6, atol=1e-9, err_msg=f"{name} {key}")


def test_pictures_have_statistics_in_lerobots_units(recorded: Recorded) -> None:
    stats = read_stats(recorded.root)
    colour = recorded.all("observation.images.main") / 255.0
    np.testing.assert_allclose(stats["observation.images.main"]["mean"][:, 0, 0], colour.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(stats["observation.images.main"]["std"][:, 0, 0], colour.std(axis=(0, 1, 2)))
    expected = np.quantile(colour.reshape(-1, 3), 0.9, axis=0)
    np.testing.assert_allclose(stats["observation.images.main"]["q90"][:, 0, 0], expected, atol=1 / 255)
    millimetres = recorded.all("observation.images.main_depth") * 1000.0
    depth = stats["observation.images.main_depth"]
    assert depth["mean"].item() == pytest.approx(millimetres.mean(), abs=1.0)
    assert depth["q50"].item() == pytest.approx(np.median(millimetres), abs=2.0)
    assert depth["min"].item() == pytest.approx(millimetres.min(), abs=1.0)
    assert depth["count"].tolist() == [len(millimetres)]


def test_episode_statistics_are_of_that_episode(recorded: Recorded) -> None:
    rows = pq.read_table(recorded.root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row, episode in zip(rows, recorded.episodes, strict=True):
        np.testing.assert_allclose(row["stats/action/mean"], episode["action"].mean(axis=0), rtol=1e-5, atol=1e-7)
        lowest = episode["observation.images.main"].min(axis=(0, 1, 2)) / 255.0
        np.testing.assert_allclose(np.ravel(row["stats/observation.images.main/min"]), lowest)


def test_lerobots_own_statistics_are_read() -> None:
    dataset = open_dataset(GOLDEN / "lerobot_v3_video")
    normalization = Normalization.from_stats(dataset.stats)
    raw = json.loads((GOLDEN / "lerobot_v3_video/meta/stats.json").read_text())["action"]
    low, high = torch.tensor(raw["q01"]), torch.tensor(raw["q99"])
    torch.testing.assert_close(normalization.actions.normalize(low), -torch.ones(4))
    torch.testing.assert_close(normalization.actions.normalize(high), torch.ones(4))
    torch.testing.assert_close(normalization.actions.normalize(high + 1), torch.ones(4))  # clipped


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 3)), min_size=1, max_size=6),
    st.sampled_from(["quantile", "mean_std"]),
)
def test_normalisation_is_undone(components: list[tuple[float, float]], kind: NormalizationKind) -> None:
    first = np.array([value for value, _ in components])
    second = first + [extent for _, extent in components] if kind == "quantile" else [e for _, e in components]
    keys = ("q01", "q99") if kind == "quantile" else ("mean", "std")
    stats = {name: dict(zip(keys, (first, second), strict=True)) for name in ("observation.state", "action")}
    normalization = Normalization.from_stats(stats, kind)
    inside = torch.rand(3, 5, len(components)) * 2 - 1
    values = normalization.actions.unnormalize(inside)
    assert torch.isfinite(normalization.actions.normalize(values)).all()
    moving = torch.tensor(normalization.actions.scale) > 1e-2
    torch.testing.assert_close(
        normalization.actions.normalize(values)[..., moving], inside[..., moving], atol=1e-3, rtol=0
    )
    assert Normalization.from_json(json.loads(json.dumps(normalization.to_json()))) == normalization


def test_a_component_that_does_not_move_is_not_blown_up() -> None:
    still = {"q01": [0.5], "q99": [0.5], "mean": [0.5], "std": [0.0]}
    stats = {"observation.state": still, "action": still}
    for kind in ("quantile", "mean_std"):
        scaling = Normalization.from_stats(stats, kind).state  # type: ignore[arg-type]
        assert scaling.normalize(torch.tensor([0.5])).item() == 0
        assert abs(scaling.normalize(torch.tensor([0.5 + 1e-7])).item()) < 0.01
        assert scaling.unnormalize(torch.tensor([1.0])).item() == pytest.approx(0.5, abs=1e-3)


def test_a_policy_does_not_run_without_its_normalisation(tmp_path: Path) -> None:
    normalization = Normalization("mean_std", Scaling((0.0,), (1.0,), False), Scaling((1.0, 2.0), (3.0, 4.0), False))
    with pytest.raises(UserError, match=r"normalization\.json: missing"):
        Normalization.load(tmp_path)
    normalization.save(tmp_path)
    assert Normalization.load(tmp_path) == normalization
    with pytest.raises(UserError, match="7 components are given, but the normalisation was made for 2"):
        normalization.actions.normalize(torch.zeros(4, 7))
    (tmp_path / "normalization.json").write_text('{"kind": "mean_std"}')
    with pytest.raises(UserError, match="not readable"):
        Normalization.load(tmp_path)
    with pytest.raises(UserError, match=r"q01 of observation\.state is missing"):
        Normalization.from_stats({"action": {"q01": [0.0], "q99": [1.0]}})
