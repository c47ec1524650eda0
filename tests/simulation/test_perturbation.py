"""Perturbations change what they say, as far as they say, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest

from fathom.errors import UserError
from fathom.simulation.metaworld.environment import MetaWorldEnv
from fathom.simulation.metaworld.tasks import INSTRUCTIONS
from fathom.simulation.perturbation import KINDS, MAX_DISTRACTORS, Kind, Perturbation, Surface
from fathom.simulation.perturber import Perturber
from fathom.simulation.rendering import Camera, Renderer
from fathom.simulation.staging import Scene, Stage

TASK, SEED = "pick-place", 3
OBJECTS = ("obj",)
SCENE = """
<mujoco>
  <asset>
    <texture name="wood" type="2d" builtin="flat" rgb1="0.6 0.4 0.2" width="32" height="32"/>
    <material name="wood" texture="wood"/>
  </asset>
  <worldbody>
    <light pos="0 0 5" dir="0 0 -1" directional="true"/>
    <geom name="floor" type="plane" size="20 20 0.1" rgba="0.3 0.3 0.3 1"/>
    <geom name="table" type="box" pos="0 0 0.2" size="0.8 0.6 0.2" material="wood"/>
    <body name="block" pos="0 0 0.45"><geom name="block" type="box" size="0.05 0.05 0.05" material="wood"/></body>
  </worldbody>
</mujoco>
"""
VIEW = Camera.look_at("main", (1.2, 0.0, 1.4), (0.0, 0.0, 0.4), 60.0)


def look(perturbation: Perturbation | None, seed: int = SEED, task: str = TASK) -> dict[str, Any]:
    """What is seen at the start of an episode."""
    env = MetaWorldEnv(task, image_size=96, depth=True, segmentation=True, perturbation=perturbation)
    seen = env.reset(seed=seed)[0]
    env.close()
    return {kind: seen[kind]["main"] for kind in ("images", "depth", "segmentation")} | {
        "objects": seen["segmentation"]["main"] > env.segmentation_names.index("gripper"),
        "table": seen["segmentation"]["main"] == env.segmentation_names.index("table"),
    }


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return look(None)


@pytest.fixture
def stage() -> Iterator[tuple[mujoco.MjModel, mujoco.MjData, Stage]]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    yield model, data, Stage([model.geom("table").id], [model.geom("floor").id], (-0.2, -0.2, 0.4), (0.2, 0.2, 0.5))


@pytest.mark.parametrize(
    ("words", "meant"),
    [("lighting", Perturbation("lighting", 1.0)), ("camera=0.25", Perturbation("camera", 0.25))],
)
def test_it_is_told_in_a_word(words: str, meant: Perturbation) -> None:
    assert Perturbation.parse(words) == meant == Perturbation.parse(str(meant))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("fog", "one of camera, lighting, table, background, distractors"),
        ("camera=1.5", "from 0 to 1, and not 1.5"),
        ("camera=-1", "from 0 to 1"),
        ("camera=nan", "from 0 to 1"),
        ("camera=much", "as in camera=0.5, and not 'much'"),
        ("camera=", "and not ''"),
    ],
)
def test_what_is_no_perturbation_is_refused(words: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Perturbation.parse(words)


def test_strength_scales_one_draw() -> None:
    half, full = (Perturbation("camera", s).draw(7) for s in (0.5, 1.0))
    assert half.azimuth == pytest.approx(full.azimuth / 2) and half.elevation == pytest.approx(full.elevation / 2)
    assert half.distance == pytest.approx(np.sqrt(full.distance))
    half, full = (Perturbation("lighting", s).draw(7) for s in (0.5, 1.0))
    np.testing.assert_allclose(np.log(half.gain), np.log(full.gain) / 2)
    half, full = (Perturbation("table", s).draw(7) for s in (0.5, 1.0))
    assert full.table is not None and half.table == replace(full.table, blend=0.5)
    half, full = (Perturbation("distractors", s).draw(7) for s in (0.5, 1.0))
    assert half.distractors == full.distractors[: MAX_DISTRACTORS // 2] and half.places == full.places


@pytest.mark.parametrize("kind", KINDS)
def test_draws_differ_from_seed_to_seed(kind: Kind) -> None:
    draws = [Perturbation(kind).draw(seed) for seed in range(5)]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_changes_no_pixel(kind: Kind, plain: dict[str, Any]) -> None:
    seen = look(Perturbation(kind, 0.0))
    assert all(np.array_equal(seen[name], plain[name]) for name in plain)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_looks_alike_whatever_came_before(kind: Kind) -> None:
    env = MetaWorldEnv(TASK, image_size=64, perturbation=Perturbation(kind))
    first, other, again = (env.reset(seed=seed)[0]["images"]["main"] for seed in (1, 2, 1))
    fresh = MetaWorldEnv(TASK, image_size=64, perturbation=Perturbation(kind)).reset(seed=1)[0]["images"]["main"]
    assert np.array_equal(first, again) and np.array_equal(first, fresh) and not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_model_and_physics_are_untouched(kind: Kind) -> None:
    """Looked at or not, the same actions lead through the same states."""
    paths = []
    for perturbation in (None, Perturbation(kind)):
        env = MetaWorldEnv(TASK, image_size=32, perturbation=perturbation)
        env.reset(seed=0)  # makes the renderer, which lowers the quality settings of the model
        env.restart(SEED)
        before = saved(env)
        env.observe()
        assert saved(env) == before
        rng, path = np.random.default_rng(0), []
        for _ in range(10):
            result = env.advance(rng.uniform(-1, 1, 4))
            env.observe()
            path.append((result, env.privileged().tolist()))
        paths.append(path)
    assert paths[0] == paths[1]


def saved(env: MetaWorldEnv) -> bytes:
    """All of the model."""
    buffer = np.empty(mujoco.mj_sizeModel(env._world.model), np.uint8)
    mujoco.mj_saveModel(env._world.model, None, buffer)
    return buffer.tobytes()


@pytest.mark.parametrize("kind", ["lighting", "table", "background"])
def test_what_only_recolours_grows_with_its_strength(kind: Kind, plain: dict[str, Any]) -> None:
    changes = []
    for strength in (0.25, 0.5, 1.0):
        seen = look(Perturbation(kind, strength))
        assert np.array_equal(seen["depth"], plain["depth"])
        assert np.array_equal(seen["segmentation"], plain["segmentation"])
        changes.append(np.abs(seen["images"].astype(int) - plain["images"]).mean())
    assert 1 < changes[0] < changes[1] < changes[2]


def test_a_table_s_look_leaves_all_else_alone(plain: dict[str, Any]) -> None:
    changed = (look(Perturbation("table"))["images"] != plain["images"]).any(axis=-1)
    assert changed[plain["table"]].mean() > 0.9 and not changed[~plain["table"]].any()


def test_a_background_s_look_leaves_table_robot_and_objects_alone(plain: dict[str, Any]) -> None:
    changed = (look(Perturbation("background"))["images"] != plain["images"]).any(axis=-1)
    behind = np.isin(plain["segmentation"], [0, 1, 3])  # sky, floor, wall
    assert changed[behind].mean() > 0.9 and not changed[~behind].any()


def test_distractors_hide_nothing_of_the_task(plain: dict[str, Any]) -> None:
    before = 0
    for strength in (0.25, 1.0):
        seen = look(Perturbation("distractors", strength))
        nearer = seen["depth"] < plain["depth"]
        assert np.array_equal(nearer, seen["depth"] != plain["depth"])
        assert np.array_equal((seen["images"] != plain["images"]).any(axis=-1) & ~nearer, np.zeros_like(nearer))
        assert np.array_equal(seen["objects"], plain["objects"])
        assert (seen["segmentation"][nearer] == 0).all()  # they are things of no name
        assert before < nearer.sum() < 0.2 * nearer.size
        before = int(nearer.sum())


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(INSTRUCTIONS))
def test_every_task_has_room_for_distractors(task: str) -> None:
    plain, seen = look(None, task=task), look(Perturbation("distractors"), task=task)
    assert np.array_equal(seen["objects"], plain["objects"])
    assert (seen["depth"] < plain["depth"]).sum() > 20


def test_the_camera_goes_around_what_it_looks_at(stage: tuple[mujoco.MjModel, mujoco.MjData, Stage]) -> None:
    model, data, parts = stage
    perturbation, target = Perturbation("camera"), np.array([0.0, 0.0, 0.4])
    perturber = Perturber(model, parts, perturbation, [VIEW])
    for seed in range(6):
        perturber.restart(seed, data)
        draw, moved = perturbation.draw(seed), perturber.camera(VIEW)
        # the point of the axis next to the workspace's middle, (0, 0, 0.45), is a little before the target
        forward = np.array([-1.2, 0.0, -1.0]) / np.hypot(1.2, 1.0)
        pivot = target + forward * (forward @ (np.array([0.0, 0.0, 0.45]) - target))
        old, new = np.array(VIEW.position) - pivot, np.array(moved.position) - pivot
        assert np.linalg.norm(new) == pytest.approx(draw.distance * np.linalg.norm(old))
        height = [np.arcsin(arm[2] / np.linalg.norm(arm)) for arm in (old, new)]
        assert height[1] - height[0] == pytest.approx(draw.elevation)
        assert np.arctan2(new[1], new[0]) == pytest.approx(draw.azimuth)  # from 0
        np.testing.assert_allclose(moved.axes()[:, 2], new / np.linalg.norm(new), atol=1e-9)  # looks at the pivot
        assert moved.axes()[2, 0] == pytest.approx(0.0, abs=1e-9)  # and stays level


def test_distractors_stand_on_the_table_beside_the_workspace(
    stage: tuple[mujoco.MjModel, mujoco.MjData, Stage],
) -> None:
    model, data, parts = stage
    for seed in range(5):
        standing = list(Scene(model, data, parts, [VIEW]).arrange(Perturbation("distractors").draw(seed)))
        assert len(standing) >= 3
        for thing, position in standing:
            assert position[2] - thing.half_size[2] == pytest.approx(0.4)
            assert (np.abs(position[:2]) < (0.78, 0.58)).all()
            assert (np.abs(position[:2]) > 0.22).any()
        middles = np.array([position for _, position in standing])
        gaps = np.linalg.norm(middles[:, None] - middles, axis=-1) + np.eye(len(middles))
        assert gaps.min() > 0.04  # twice the smallest half side


def test_where_there_is_no_room_distractors_stay_away(stage: tuple[mujoco.MjModel, mujoco.MjData, Stage]) -> None:
    model, data, parts = stage
    everywhere = replace(parts, low=(-0.8, -0.6, 0.4), high=(0.8, 0.6, 0.6))
    assert not list(Scene(model, data, everywhere, [VIEW]).arrange(Perturbation("distractors").draw(0)))


def test_a_texture_that_an_object_shares_is_left_to_it(stage: tuple[mujoco.MjModel, mujoco.MjData, Stage]) -> None:
    model, data, parts = stage
    perturber = Perturber(model, parts, Perturbation("table"), [VIEW])
    perturber.restart(0, data)
    before = Renderer(model, 64, VIEW).render(data, segmentation=True)
    after = Renderer(model, 64, VIEW, perturber=perturber).render(data)
    assert before.segmentation is not None
    changed = (before.rgb != after.rgb).any(axis=-1)
    assert changed[before.segmentation == model.geom("table").id].all()
    assert not changed[before.segmentation == model.geom("block").id].any()


def test_a_pattern_can_be_tiled_and_keeps_transparency() -> None:
    surface = Surface(((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), ((1, 0, 0.0),), 1.0)  # one red and one blue stripe
    painted = surface.paint(np.full((8, 8, 4), 77, np.uint8))
    assert (painted[:, 0, 0] > 250).all() and (painted[:, 4, 2] > 250).all() and (painted[..., 3] == 77).all()
    column = surface.paint(np.zeros((48, 8, 3), np.uint8))  # a cube's six faces
    assert all(np.array_equal(column[i : i + 8], column[:8]) for i in range(8, 48, 8))
    half = replace(surface, blend=0.5).paint(np.zeros((8, 8, 3), np.uint8))
    np.testing.assert_allclose(half, painted[..., :3] / 2, atol=0.5)
