"""Folders of questions: what they hold, how they are split, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.vlm.questions.boxes import ORDERLY, Box, draw

from fathom.cli.vlm_questions import VlmQuestions
from fathom.cli.vlm_score import VlmEval
from fathom.data.dataset import open_dataset
from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError
from fathom.simulation.collect import collect
from fathom.simulation.demonstrations import Style
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.questions import View
from fathom.vlm.questions.names import named_by_task
from fathom.vlm.questions.reading import read_made_questions
from fathom.vlm.questions.writing import recorded_view, write_questions
from fathom.vlm.scoring import score_file
from fathom.vlm.scoring.answering import answer_questions

VIEW = View(47.0, tilt=30.0)
NOTES = {"collection.json": {"cameras": {"main": {"fovy": 47.0, "tilt": 30.0}}}}
NAMES = dict(enumerate(["floor", *(box.name for box in ORDERLY)]))


def write_dataset(
    root: Path,
    episodes: int = 5,
    notes: dict[str, Any] | None = None,
    boxes: bool = True,
    task: str = "look",
    **features: Feature | None,
) -> Path:
    """Three frames an episode, as `fathom collect --segmentation` lays them out; the mug wanders."""
    wanted = {
        "main": Feature.rgb(64, 64),
        "main_depth": Feature.depth(64, 64),
        "main_segmentation": Feature.segmentation(64, 64, NAMES),
    } | features
    kept = {f"observation.images.{name}": feature for name, feature in wanted.items() if feature is not None}
    writer = DatasetWriter(root, kept, fps=10)
    for episode in range(episodes):
        depth, labels = (np.stack(maps) for maps in zip(*(drawn(episode, t, boxes) for t in range(3)), strict=True))
        colour = np.repeat(labels[..., None] * 50, 3, axis=-1).astype(np.uint8)
        frames = {"main": colour, "main_depth": depth, "main_segmentation": labels}
        writer.stage_episode(episode, {name: frames[name.rsplit(".", 1)[1]] for name in kept}, task)
    return writer.finish(notes=notes)


def drawn(episode: int, time: int, boxes: bool) -> tuple[np.ndarray, np.ndarray]:
    x = -0.6 + 0.02 * episode + 0.01 * time
    shown = [Box("red_mug_1", (x, 2.0, 0.0), (x + 0.2, 2.2, 0.3)), *ORDERLY[1:]] if boxes else []
    return draw(shown, VIEW, size=64)[:2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("questions") / "boxes", notes=NOTES)


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "questions"
    write_questions(dataset, out, per_frame=8, every=2, test_share=0.4, seed=1)
    return out


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scenes_are_in_one_split_only(made) -> None:
    splits = [{line["scene"] for line in lines_of(made / f"{split}.jsonl")} for split in ("train", "test")]
    assert [len(split) for split in splits] == [3, 2]
    assert set.union(*splits) == set(range(5)) and set.isdisjoint(*splits)


def test_every_second_frame_is_asked_about(made) -> None:
    lines = lines_of(made / "train.jsonl")
    assert {line["frame"] for line in lines} == {0, 2}
    assert len(lines) == 3 * 2 * 8
    assert len({line["id"] for line in lines}) == len(lines)


def test_lines_name_their_picture_and_depth(made, dataset) -> None:
    frames = open_dataset(dataset, depth=True)
    line = lines_of(made / "test.jsonl")[-1]
    sample = frames[3 * line["scene"] + line["frame"]]
    colour = np.array(Image.open(made / line["image"]))
    depth = np.array(Image.open(made / line["depth"]))
    np.testing.assert_array_equal(colour.transpose(2, 0, 1), sample["observation.images.main"])
    assert (
        depth.dtype == np.uint16
        and np.abs(depth / 1000 - sample["observation.images.main_depth"][0].numpy()).max() < 6e-4
    )


def test_how_it_was_made_is_told(made) -> None:
    about = json.loads((made / "questions.json").read_text())
    assert about["view"] == {"fovy": 47.0, "fovx": None, "tilt": 30.0} and about["seed"] == 1
    assert sum(about["counts"]["train"].values()) == len(lines_of(made / "train.jsonl"))


def test_the_seed_decides(made, dataset, tmp_path) -> None:
    settings = {"per_frame": 8, "every": 2, "test_share": 0.4}
    for seed, same in ((1, True), (2, False)):
        write_questions(dataset, tmp_path / str(seed), seed=seed, **settings)
        files = [(folder / "train.jsonl").read_bytes() for folder in (made, tmp_path / str(seed))]
        assert (files[0] == files[1]) == same


def test_a_model_is_asked_and_scored(made, tmp_path) -> None:
    class Knowing:
        """Answers by heart, and looks at what it is given."""

        def answer(self, image: Image.Image, question: str, depth: Path | None = None, **_: int) -> str:
            assert depth is not None and Image.open(depth).size == image.size
            return next(known)

    questions = read_made_questions(made / "test.jsonl")
    known = iter([question.known["answer"] for question in questions])
    answer_questions(Knowing(), questions, tmp_path / "predictions.jsonl")
    score = score_file(tmp_path / "predictions.jsonl", "msmu", "fixed")
    assert score.overall == 100 and score.n == len(questions) > 10


def test_what_is_too_far_for_the_code_is_not_known(tmp_path) -> None:
    """The code of depth here ends at 4 m: the wall would come back at that distance."""
    near = Feature.depth(64, 64)
    near = replace(near, info={**near.info, "video.depth_max": 4.0})
    write_questions(write_dataset(tmp_path / "data", 2, NOTES, main_depth=near), tmp_path / "out")
    depth = np.array(Image.open(next((tmp_path / "out/depth").iterdir())))
    assert (depth[0] == 0).all() and 3000 < depth.max() < 4000


def test_the_command_prints_its_counts(dataset, tmp_path, capsys) -> None:
    VlmQuestions(dataset, tmp_path / "out", fovy=47.0).run()
    printed = capsys.readouterr().out
    assert "camera_distance" in printed and "all" in printed
    assert json.loads((tmp_path / "out/questions.json").read_text())["view"]["tilt"] is None


def test_the_recorded_view(dataset, tmp_path) -> None:
    assert recorded_view(dataset) == VIEW
    with pytest.raises(UserError, match=r"collection.json: does not say how the camera 'main' sees; .*--fovy"):
        recorded_view(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"main_segmentation": None}, "no observation.images.main_segmentation .* with --segmentation"),
        ({"main_segmentation": Feature.segmentation(64, 64, {})}, "names of its labels"),
        ({"main_depth": None}, "main_depth"),
        ({"main_depth": Feature.depth(64, 64, "relative_inverse")}, "needs? depth in metres"),
        ({"episodes": 1}, "has 1 episode, .* at least 2"),
        ({"notes": None}, "--fovy"),
        ({"boxes": False}, "no frame of the train episodes shows an object"),
    ],
)
def test_datasets_that_are_refused(tmp_path, arguments, sentence) -> None:
    root = write_dataset(tmp_path / "data", **({"episodes": 2, "notes": NOTES} | arguments))
    with pytest.raises(UserError, match=sentence):
        write_questions(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "nothing is left behind"


@pytest.mark.parametrize("arguments", [{"per_frame": 0}, {"every": 0}, {"test_share": 1.0}, {"test_share": 0.0}])
def test_arguments_that_are_refused(dataset, tmp_path, arguments) -> None:
    with pytest.raises(UserError, match=f"{next(iter(arguments))} = "):
        write_questions(dataset, tmp_path / "out", **arguments)


def test_something_in_the_way(dataset, made) -> None:
    with pytest.raises(UserError, match="already here"):
        write_questions(dataset, made)


@pytest.mark.parametrize(("options", "sentence"), [({"tilt": 3.0}, "also give --fovy"), ({"fovy": 180.0}, "between 0")])
def test_options_that_are_refused(dataset, tmp_path, options, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        VlmQuestions(dataset, tmp_path / "out", **options).run()


def test_a_folder_of_questions_is_a_benchmark(made, tmp_path, monkeypatch, capsys) -> None:
    """`fathom vlm eval --benchmark msmu` takes it as it takes MSMU's own, and asks the questions of the test."""

    class Silent:
        config, processor = DepthVLMConfig(fusion="none"), SimpleNamespace(estimator=None)

        def answer(self, image: Image.Image, question: str, depth: Path | None = None, **_: int) -> str:
            assert depth is not None
            return "I cannot tell."

    monkeypatch.setattr("fathom.vlm.saving.load_depth_vlm", lambda source, **_: Silent())
    VlmEval("model", made, "msmu", tmp_path / "run", json=True).run()
    score = json.loads(capsys.readouterr().out)
    assert score["overall"] == 0 and score["n"] == len(lines_of(made / "test.jsonl"))
    assert lines_of(tmp_path / "run/predictions.jsonl")[0]["id"] == lines_of(made / "test.jsonl")[0]["id"]


@pytest.mark.parametrize("label", ["obj", "object_1"])
def test_what_the_simulator_does_not_name_the_task_names(label) -> None:
    assert named_by_task(label, "push the puck forward to the marker") == "puck"
    assert named_by_task(label, "press the button of the coffee machine") == "mug"
    assert named_by_task(label, "move the gripper to the marker") == label
    assert named_by_task("peg", "push the puck forward to the marker") == "peg"


def test_questions_use_the_task_s_name(tmp_path) -> None:
    names = NAMES | {1: "obj"}  # the mug that wanders
    made = Feature.segmentation(64, 64, names)
    root = write_dataset(tmp_path / "data", 2, NOTES, task="push the puck to the marker", main_segmentation=made)
    write_questions(root, tmp_path / "out", per_frame=20)
    asked = " ".join(
        line["question"] for split in ("train", "test") for line in lines_of(tmp_path / f"out/{split}.jsonl")
    )
    assert "the puck" in asked and "object" not in asked.replace("objects", "")


@pytest.mark.slow
def test_a_collection_of_meta_world_says_how_its_camera_sees(tmp_path) -> None:
    """NEAR stands at (0.55, 0.17, 0.53) and looks at (0.01, 0.65, 0.11): 0.42 m down over 0.7225 m, with fovy 47."""
    collect("metaworld", ["handle-press"], 2, tmp_path / "data", style=Style(64), segmentation=True, processes=1)
    view = recorded_view(tmp_path / "data")
    down = np.degrees(np.arctan2(0.53 - 0.11, np.hypot(0.55 - 0.01, 0.17 - 0.65)))
    assert (view.fovy, view.fovx) == (47.0, None) and view.tilt == pytest.approx(down, abs=1e-3)
    counts = write_questions(tmp_path / "data", tmp_path / "out", every=5)
    assert counts["train"]["size"] + counts["train"]["camera_distance"] > 0
