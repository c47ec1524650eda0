"""Drawn scenes: what a ray meets, against geometry; and folders of questions about them."""

import json
from dataclasses import replace
from math import atan, degrees

import numpy as np
import pytest

from fathom.vlm.questions import View
from fathom.vlm.questions.reading import read_made_questions
from fathom.vlm.scoring.answers import lengths
from fathom.vlm.tabletop import Solid, Table, TabletopRecipe, draw_table, render, write_tabletop_questions

VIEW = View(fovy=40.0, tilt=90.0)
"""From straight above: depth is height, and the picture a map."""


def table(*solids: Solid, distance: float = 3.0, view: View = VIEW) -> Table:
    return Table(solids, distance, view, azimuth=0.3, ground=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("shape", "half_size"), [("ball", (0.3, 0.3, 0.3)), ("box", (0.2, 0.4, 0.15)), ("can", (0.25, 0.25, 0.4))]
)
def test_from_above_the_nearest_point_is_the_top(shape, half_size):
    seen = render(table(Solid(shape, "red", (0.0, 0.0), half_size)), 65)
    assert seen.names == {0: "table", 1: f"red_{shape}"}
    assert seen.labels[32, 32] == 1 and seen.labels[0, 0] == 0
    assert seen.depth[32, 32] == pytest.approx(3.0 - 2 * half_size[2], abs=1e-5)
    assert seen.depth[0, 0] == pytest.approx(
        3.0, abs=1e-5
    )  # the table, however far to the side: depth is along the axis


def test_a_box_covers_the_pixels_that_its_top_does():
    seen = render(table(Solid("box", "blue", (0.0, 0.0), (0.2, 0.4, 0.15))), 200)
    pixel = 2 * np.tan(np.radians(20)) * 2.7 / 200  # metres at the depth of the top
    top = (seen.labels == 1) & (seen.depth < 2.7001)
    rows, columns = top.any(axis=1).sum(), top.any(axis=0).sum()
    assert columns * pixel == pytest.approx(0.4, abs=1.01 * pixel)
    assert rows * pixel == pytest.approx(0.8, abs=1.01 * pixel)


def test_points_of_a_ball_lie_on_it():
    view = View(fovy=50.0, tilt=30.0)
    ball = Solid("ball", "green", (0.2, 0.1), (0.25, 0.25, 0.25))
    seen = render(table(ball, view=view), 64)
    rays = np.concatenate([view.directions(64, 64), np.ones((64, 64, 1))], axis=-1)
    points = (rays * seen.depth[..., None])[seen.labels == 1]
    tilt = np.radians(30.0)
    forward = np.array([0, np.cos(tilt), -np.sin(tilt)])
    axes = np.array([[1, 0, 0], [0, -np.sin(tilt), -np.cos(tilt)], forward])  # the camera's, in the world
    world = points @ axes - 3.0 * forward
    assert len(world) > 50
    assert np.allclose(np.linalg.norm(world - [0.2, 0.1, 0.25], axis=1), 0.25, atol=1e-5)


def test_the_picture_says_proportions_and_depth_says_metres():
    """A scene twice as large, from twice as far, is the same picture; its depth is twice as deep."""
    small = table(Solid("can", "red", (0.1, 0.0), (0.1, 0.1, 0.2)), Solid("box", "blue", (-0.3, 0.2), (0.1, 0.2, 0.1)))
    large = replace(
        small,
        distance=2 * small.distance,
        solids=tuple(
            replace(one, place=tuple(2 * x for x in one.place), half_size=tuple(2 * x for x in one.half_size))
            for one in small.solids
        ),
    )
    one, other = render(small, 48), render(large, 48)
    assert np.array_equal(one.rgb, other.rgb)
    assert np.allclose(2 * one.depth, other.depth, rtol=1e-5)


def test_the_lens_follows_the_distance():
    tables = [draw_table(np.random.default_rng(seed)) for seed in range(40)]
    assert {len(one.solids) for one in tables} <= {2, 3}
    for one in tables:
        far = [solid.place for solid in one.solids]
        scale = np.tan(np.radians(one.view.fovy / 2)) * one.distance
        assert all(np.hypot(*place) <= scale for place in far)  # framing is at least the radius
    assert max(one.distance for one in tables) > 4 * min(one.distance for one in tables)
    assert degrees(atan(1.4 / 1.8)) * 2 >= max(one.view.fovy for one in tables)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("tabletop") / "questions"
    write_tabletop_questions(TabletopRecipe(train=6, test=3), out)
    return out


def test_scenes_are_in_one_split_and_answers_say_what_is_true(made):
    splits = {
        name: [json.loads(line) for line in (made / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    scenes = {name: {line["image"] for line in lines} for name, lines in splits.items()}
    assert not scenes["train"] & scenes["test"] and len(scenes["test"]) == 3
    assert "count" not in {line["kind"] for lines in splits.values() for line in lines}
    distances = [line for line in splits["train"] if line["kind"] in ("camera_distance", "size")]
    assert distances
    for line in distances:
        assert lengths(line["answer"]) == pytest.approx(line["values"], rel=0.01)
    questions = read_made_questions(made / "test.jsonl")
    assert questions[0].picture().size == (64, 64) and questions[0].depth is not None


def test_the_recipe_decides_every_byte(made, tmp_path):
    write_tabletop_questions(TabletopRecipe(train=6, test=3), tmp_path / "again")
    for name in ("train.jsonl", "test.jsonl", "images/000003.png", "depth/000003.png"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()
    write_tabletop_questions(TabletopRecipe(train=6, test=3, seed=1), tmp_path / "other")
    assert (tmp_path / "other" / "train.jsonl").read_bytes() != (made / "train.jsonl").read_bytes()
