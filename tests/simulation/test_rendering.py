"""Pictures: upright, with depth in metres, and with segmentation, against geometry that is known otherwise."""

import mujoco
import numpy as np
import pytest

from fathom.errors import UserError
from fathom.simulation.display import opengl_backend
from fathom.simulation.metaworld.environment import NEAR, OFFICIAL, MetaWorldEnv
from fathom.simulation.rendering import Camera, Renderer

SCENE = """
<mujoco>
  <visual><map znear="0.01"/></visual>
  <worldbody>
    <light pos="0 0 5" dir="0 0 -1" directional="true"/>
    <geom name="floor" type="plane" size="20 20 0.1" rgba="0.3 0.3 0.3 1"/>
    <geom name="red" type="box" pos="0 0.5 0.05" size="0.1 0.1 0.05" rgba="1 0 0 1"/>
    <geom name="green" type="sphere" pos="0.5 0 0.2" size="0.2" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""
SIZE = 64


@pytest.fixture(scope="module")
def scene() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def straight_down(height: float, fovy: float = 60.0) -> Camera:
    return Camera("main", (0.0, 0.0, height), (1.0, 0.0, 0.0, 0.0), fovy)


def where(mask: np.ndarray) -> tuple[float, float]:
    """(row, column) of a mask's middle."""
    rows, columns = np.nonzero(mask)
    return rows.mean(), columns.mean()


def test_depth_is_along_the_optical_axis_in_metres(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    renderer = Renderer(model, SIZE, straight_down(2.0))
    depth = renderer.render(data, depth=True).depth
    assert depth is not None
    np.testing.assert_allclose(depth[-1], 2.0, atol=1e-3)  # a row of floor: constant, not growing towards its ends
    row = round(SIZE / 2 - 0.5 / (1.9 * np.tan(np.pi / 6)) * SIZE / 2)  # where the red box's top is seen
    assert depth[row, SIZE // 2] == pytest.approx(1.9, abs=1e-3)


def test_pictures_are_upright_and_not_mirrored(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    rgb = Renderer(model, SIZE, straight_down(2.0)).render(data).rgb.astype(int)
    red = where(rgb[..., 0] > 2 * rgb[..., 1] + 20)
    green = where(rgb[..., 1] > 2 * rgb[..., 0] + 20)
    assert red[0] < SIZE / 3 and abs(red[1] - SIZE / 2) < 2  # +y is up in the picture of a camera that looks down
    assert green[1] > SIZE / 2 + 5 and abs(green[0] - SIZE / 2) < 2  # +x is right


def test_look_at_is_upright_and_centred(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    camera = Camera.look_at("main", (0.5, -2.0, 1.0), (0.5, 0.0, 0.2), 40.0)
    picture = Renderer(model, SIZE, camera).render(data, depth=True, segmentation=True)
    assert picture.segmentation is not None and picture.depth is not None
    ball = where(picture.segmentation == model.geom("green").id)
    np.testing.assert_allclose(ball, SIZE / 2, atol=2)
    assert picture.depth[0].mean() > picture.depth[-1].mean()  # the floor comes nearer towards the lower edge


def test_segmentation_gives_geom_ids(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    labels = Renderer(model, SIZE, straight_down(2.0)).render(data, segmentation=True).segmentation
    assert labels is not None
    assert set(np.unique(labels)) == {model.geom(name).id for name in ("floor", "red", "green")}
    up = Camera("main", (0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.0), 60.0)  # looks into the sky
    sky = Renderer(model, SIZE, up).render(data, segmentation=True).segmentation
    assert sky is not None and (sky == -1).all()


MOVING = """
<mujoco>
  <worldbody>
    <light pos="0 0 5" dir="0 0 -1" directional="true"/>
    <geom name="floor" type="plane" size="20 20 0.1" rgba="0.3 0.3 0.3 1"/>
    <geom name="red" type="box" pos="1 0 0.1" size="0.1 0.1 0.1" rgba="1 0 0 1"/>
    <geom name="shape" type="box" pos="1 0 0.5" size="0.3 0.3 0.05" rgba="0 1 0 1" group="4"/>
    <site name="mark" type="box" pos="1 0 0.7" size="0.3 0.3 0.05" rgba="0 1 0 {alpha}"/>
    <body name="hand" pos="0 0 2">
      <joint name="slide" type="slide" axis="1 0 0"/>
      <joint name="turn" type="hinge" axis="0 0 1"/>
      <geom type="sphere" size="0.01" pos="0 0 0.5"/>
      <camera name="eye" fovy="50"/>
    </body>
  </worldbody>
</mujoco>
"""


def moving_scene(slide: float, turn: float, alpha: float = 0.0) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(MOVING.format(alpha=alpha))
    data = mujoco.MjData(model)
    data.qpos[:] = slide, turn
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize(("slide", "turn"), [(1.0, 0.0), (0.8, 1.2)])
def test_a_camera_of_the_model_is_followed(slide: float, turn: float) -> None:
    model, data = moving_scene(slide, turn)
    eye = Camera.of_model("wrist", model, data, "eye")
    np.testing.assert_allclose(eye.position, (slide, 0.0, 2.0), atol=1e-9)
    renderer = Renderer(model, SIZE, straight_down(3.0))
    before = renderer.render(data).rgb
    picture = renderer.render(data, camera=eye)
    with mujoco.Renderer(model, SIZE, SIZE) as reference:
        reference.update_scene(data, "eye")
        expected = reference.render()
    assert (np.abs(picture.rgb.astype(int) - expected).max(axis=-1) > 40).mean() < 0.02, "it sees what the hand sees"
    assert np.abs(before.astype(int) - picture.rgb).max() > 40
    np.testing.assert_array_equal(renderer.render(data).rgb, before)  # its own view is there again


def test_hidden_groups_and_invisible_marks_hide_nothing() -> None:
    for alpha in (0.0, -1.0):  # robosuite's way to hide a site is a negative one
        model, data = moving_scene(1.0, 0.0, alpha)
        model.geom_group[model.geom("shape").id] = 1  # drawn, unless asked not to
        eye = Camera.of_model("wrist", model, data, "eye")
        middle = SIZE // 2
        for hidden, seen, distance in (((), "shape", 1.45), ((1,), "red", 1.8)):
            renderer = Renderer(model, SIZE, eye, hidden_groups=hidden)
            picture = renderer.render(data, depth=True, segmentation=True)
            assert picture.segmentation is not None and picture.depth is not None
            assert picture.segmentation[middle, middle] == model.geom(seen).id
            assert picture.depth[middle, middle] == pytest.approx(distance, abs=1e-3)


def test_depth_agrees_with_rays_in_a_metaworld_scene() -> None:
    env = MetaWorldEnv("drawer-open", depth=True, segmentation=True)
    observed, _ = env.reset(seed=3)
    depth = observed["depth"]["main"]
    model, data = env._world.model, env._world.data
    slope, axes = np.tan(np.deg2rad(NEAR.fovy) / 2), NEAR.axes()
    drawn_groups = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    errors = []
    for row in range(4, 128, 8):
        for column in range(4, 128, 8):
            u, v = (column + 0.5) / 64 - 1, 1 - (row + 0.5) / 64
            ray = axes @ np.array([u * slope, v * slope, -1.0])  # one metre along the axis
            hit = np.zeros(1, np.int32)
            distance = mujoco.mj_ray(
                model, data, np.array(NEAR.position), ray / np.linalg.norm(ray), drawn_groups, 1, -1, hit
            )
            if distance > 0:
                errors.append(abs(distance / np.linalg.norm(ray) - depth[row, column]))
    assert len(errors) > 150
    # a pixel on an edge may see the other side of it
    assert np.quantile(errors, 0.9) < 1e-3, "depth is not metres along the axis"
    env.close()


def test_leaving_out_what_is_outside_the_view_changes_no_pixel() -> None:
    env = MetaWorldEnv("door-open", depth=True)
    env.restart(4)
    env.observe()
    renderer = env._renderer
    assert renderer is not None
    for _ in range(3):
        for _ in range(10):
            env.advance(np.array([0.5, 0.8, -0.3, 0.0]))
        culled = renderer.render(env._world.data, depth=True)
        drawn = renderer._scene.ngeom
        renderer._fast = False
        whole = renderer.render(env._world.data, depth=True)
        renderer._fast = True
        assert drawn < renderer._scene.ngeom
        np.testing.assert_array_equal(culled.rgb, whole.rgb)
        np.testing.assert_array_equal(culled.depth, whole.depth)
    env.close()


def test_the_official_view_is_lerobots() -> None:
    env = MetaWorldEnv("drawer-open", quality="official")
    observed, _ = env.reset(seed=1)
    model, data = env._world.model, env._world.data
    model.cam_pos[model.camera("corner2").id] = OFFICIAL.position
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 128, 128) as reference:
        reference.update_scene(data, "corner2")
        expected = reference.render()[::-1, ::-1]
    assert np.abs(observed["images"]["main"].astype(int) - expected).max() <= 3
    env.close()


def test_an_opengl_that_does_not_work_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(UserError, match=r"MUJOCO_GL=vulkan does not work.*unset it"):
        opengl_backend.__wrapped__()
