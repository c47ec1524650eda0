"""Perturbations of the WidowX twins change what they say, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from fathom.simulation.perturbation import KINDS, Kind, Perturbation

pytestmark = [pytest.mark.simpler, pytest.mark.usefixtures("simpler")]

TASK, SEED = "widowx_carrot_on_plate", 1


@contextmanager
def twin(perturbation: Perturbation | None) -> Iterator[Any]:
    from fathom.simulation.simpler.widowx import WidowXEnv

    env = WidowXEnv(TASK, image_size=96, depth=True, segmentation=True, perturbation=perturbation)
    yield env
    env.close()


def look(env: Any, seed: int = SEED) -> dict[str, np.ndarray]:
    env.reset(seed=0)  # the simulator's very first picture differs from later ones in single pixels
    seen = env.reset(seed=seed)[0]
    return {kind: seen[kind]["main"] for kind in ("images", "depth", "segmentation")}


@pytest.fixture(scope="module")
def plain(simpler: None) -> dict[str, np.ndarray]:
    with twin(None) as env:
        return look(env)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_changes_no_pixel(kind: Kind, plain: dict[str, np.ndarray]) -> None:
    with twin(Perturbation(kind, 0.0)) as env:
        seen = look(env)
    assert all(np.array_equal(seen[name], plain[name]) for name in plain)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_looks_alike_whatever_came_before(kind: Kind) -> None:
    with twin(Perturbation(kind)) as env:
        first, other, again = (look(env, seed)["images"] for seed in (1, 2, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_physics_is_untouched(kind: Kind) -> None:
    paths = []
    for perturbation in (None, Perturbation(kind)):
        rng, path = np.random.default_rng(0), []
        with twin(perturbation) as env:
            env.reset(seed=SEED)
            for _ in range(5):
                env.advance(rng.uniform(-0.02, 0.02, 7))
                path.append([*env.hand(), *env.source(), *env.target()])
        paths.append(path)
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("kind", ["lighting", "table", "background"])
def test_what_only_recolours_leaves_shapes_alone(kind: Kind, plain: dict[str, np.ndarray]) -> None:
    with twin(Perturbation(kind)) as env:
        seen = look(env)
    assert np.array_equal(seen["depth"], plain["depth"])
    assert np.array_equal(seen["segmentation"], plain["segmentation"])
    assert (seen["images"] != plain["images"]).any(axis=-1).mean() > 0.1


def test_distractors_hide_neither_robot_nor_objects(plain: dict[str, np.ndarray]) -> None:
    with twin(Perturbation("distractors")) as env:
        seen = look(env)
    nearer = seen["depth"] < plain["depth"] - 1e-3
    assert 20 < nearer.sum() < 0.3 * nearer.size
    assert not (seen["depth"] > plain["depth"] + 1e-3).any()
    things = plain["segmentation"] > 1
    assert np.array_equal(seen["segmentation"][things], plain["segmentation"][things])
