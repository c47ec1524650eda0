"""What is measured in a frame, against the boxes that were drawn."""

from itertools import combinations
from math import radians, tan

import numpy as np
import pytest
from tests.vlm.questions.boxes import CAMERA_HEIGHT, ORDERLY, Box, draw

from fathom.vlm.questions import Scene, Thing, View, look
from fathom.vlm.questions.names import is_object, plural, readable

TILTED = View(47.0, tilt=30.0)


def seen(boxes: list[Box], view: View = TILTED, size: int = 160) -> Scene:
    return look(*draw(boxes, view, size), view)


def named(scene: Scene, name: str) -> Thing:
    return next(thing for thing in scene.things if thing.name == name)


class TestGeometry:
    """Boxes at known places; what is seen of them ends half a pixel from their edges."""

    @pytest.mark.parametrize("view", [TILTED, View(60.0, tilt=20.0), View(40.0, fovx=65.0, tilt=30.0)])
    def test_sizes(self, view: View) -> None:
        scene = seen(ORDERLY[:2], view)
        for box, name in zip(ORDERLY, ("red mug", "plate"), strict=False):
            pixel = 2 * box.from_camera[1] * tan(radians(max(view.fovy, view.fovx or 0)) / 2) / 160
            extent = named(scene, name).extent
            assert extent.width == pytest.approx(box.high[0] - box.low[0], abs=1.2 * pixel)
            assert extent.height == pytest.approx(box.high[2] - box.low[2], abs=1.2 * pixel)

    def test_distances(self) -> None:
        scene = seen([*ORDERLY[:3]])
        things = [named(scene, name) for name in ("red mug", "plate", "bowl")]
        for thing, box in zip(things, ORDERLY, strict=False):
            assert thing.extent.distance == pytest.approx(np.linalg.norm(box.from_camera), rel=0.05)
        for one, other in combinations(range(3), 2):
            apart = np.linalg.norm(things[one].extent.middle - things[other].extent.middle)
            assert apart == pytest.approx(np.linalg.norm(ORDERLY[one].middle - ORDERLY[other].middle), rel=0.1)

    def test_a_wall_faced_squarely_is_exact(self) -> None:
        """Depth is measured along the axis: a card aside of it is farther away than its depth says."""
        size, view = 100, View(90.0)  # at 2 m a pixel is 4 cm
        depth, labels = np.full((size, size), 2.0, np.float32), np.zeros((size, size), int)
        labels[20:30, 75:95] = 1  # from 1 m to 1.8 m to the right, from 1.2 m to 0.8 m above
        extent = look(depth, labels, {1: "card"}, view).things[0].extent
        assert extent.middle == pytest.approx([1.4, -1.0, 2.0])
        assert extent.distance == pytest.approx((1.4**2 + 1 + 4) ** 0.5)
        assert extent.width == pytest.approx(0.8)
        assert extent.height is None  # no tilt is known

    def test_pixels_without_depth_are_not_measured(self) -> None:
        depth, labels, names = draw(ORDERLY[:1], TILTED)
        holes = np.random.default_rng(0).random(depth.shape) < 0.3
        depth[holes] = np.random.default_rng(0).choice([0.0, np.nan, np.inf, -1.0], int(holes.sum()))
        extent = look(depth, labels, names, TILTED).things[0].extent
        assert extent.distance == pytest.approx(np.linalg.norm(ORDERLY[0].from_camera), rel=0.05)

    def test_maps_of_different_shape(self) -> None:
        with pytest.raises(ValueError, match="not of the same picture"):
            look(np.ones((4, 4)), np.zeros((4, 5), int), {}, TILTED)


class TestWhole:
    def test_what_another_hides_has_no_size(self) -> None:
        box = Box("box", (-0.3, 3.0, 0.0), (0.3, 3.2, 0.3))
        pole = Box("pole", (-0.05, 2.5, 0.0), (0.05, 2.6, 0.6))
        scene = seen([box, pole])
        assert named(scene, "box").extent.width is None
        assert named(scene, "pole").extent.height == pytest.approx(0.6, abs=0.03)
        assert seen([box]).things[0].extent.width == pytest.approx(0.6, abs=0.03)

    def test_the_gripper_hides_even_where_it_touches(self) -> None:
        box = Box("box", (-0.3, 3.0, 0.0), (0.3, 3.2, 0.3))
        finger = Box("gripper", (0.1, 2.99, 0.0), (0.3, 3.0, 0.3))
        assert seen([box, finger]).things[0].extent.width is None

    @pytest.mark.parametrize("x", [-1.0, 1.0])
    def test_what_the_picture_cuts_has_no_size(self, x: float) -> None:
        (thing,) = seen([Box("box", (x - 0.2, 2.0, 0.0), (x + 0.2, 2.2, 0.3))]).things
        assert thing.extent.width is None and thing.extent.height is None

    def test_what_is_small_in_the_picture_has_no_size(self) -> None:
        """6 pixels wide and 14 high: a pixel is a sixth of the width."""
        pixel = 2 * (4 * np.cos(np.pi / 6) + CAMERA_HEIGHT / 2) * tan(radians(47.0) / 2) / 160
        (thing,) = seen([Box("pole", (-3.2 * pixel, 4.0, 0.0), (3.2 * pixel, 4.01, 16 * pixel))]).things
        assert thing.extent.width is None
        assert thing.extent.height == pytest.approx(16 * pixel, abs=1.5 * pixel)


class TestNames:
    def test_two_of_a_name_are_counted_and_not_asked_about(self) -> None:
        scene = seen(ORDERLY)
        assert [thing.name for thing in scene.things] == ["red mug", "plate"]
        assert scene.counts == {"red mug": 1, "plate": 1, "bowl": 2}
        assert scene.total == 4

    def test_a_name_that_may_mean_another(self) -> None:
        at = [(box.low, box.high) for box in ORDERLY]
        scene = seen([Box("box", *at[0]), Box("cookies_1", *at[1]), Box("obj", *at[2])])
        assert [thing.name for thing in scene.things] == ["cookie box"]
        assert scene.counts == {"box": 2, "cookie box": 1}
        assert scene.total == 3
        assert [thing.name for thing in seen([Box("obj", *at[2])]).things] == ["object"]

    def test_robot_and_scenery_are_no_objects(self) -> None:
        boxes = [
            Box(name, box.low, box.high) for name, box in zip(("gripper", "main_table", "arm"), ORDERLY, strict=False)
        ]
        assert seen(boxes) == Scene((), {}, None)

    def test_what_is_hardly_visible_makes_its_name_ambiguous(self) -> None:
        far = Box("bowl_3", (0.5, 6.0, 0.0), (0.6, 6.1, 0.1))
        alone = seen([*ORDERLY[:3], far])
        assert [thing.name for thing in alone.things] == ["red mug", "plate"]
        assert alone.counts == {"red mug": 1, "plate": 1}
        assert alone.total is None
        assert "bowl" in seen(ORDERLY[:3]).counts

    @pytest.mark.parametrize(
        ("label", "name", "more"),
        [
            ("moka_pot_2", "moka pot", "moka pots"),
            ("RoundNut", "round nut", "round nuts"),
            ("akita_black_bowl_1", "black bowl", "black bowls"),
            ("chefmate_8_frypan_1", "frying pan", "frying pans"),
            ("boxbody", "box", "boxes"),
            ("wooden_two_layer_shelf_1", "wooden shelf", "wooden shelves"),
            ("green block", "green block", "green blocks"),
            ("battery", "battery", "batteries"),
        ],
    )
    def test_readable_names(self, label: str, name: str, more: str) -> None:
        assert readable(label) == name and plural(name) == more and is_object(label)
