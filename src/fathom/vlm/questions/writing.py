"""A folder of questions about the frames of a dataset: pictures, depth, and one line of JSON a question."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import IMAGES, MAIN_DEPTH, MILLIMETRES_PER_METRE, DatasetInfo
from fathom.errors import UserError
from fathom.files import full_disk_is_told, write_file, write_json
from fathom.progress import progress_bar
from fathom.vlm.questions.geometry import DepthMap, View
from fathom.vlm.questions.making import make_questions
from fathom.vlm.questions.names import named_by_task
from fathom.vlm.questions.scene import look

MAIN = f"{IMAGES}main"
LABELS = f"{IMAGES}main_segmentation"
Split = Literal["train", "test"]


def write_questions(
    dataset: str | Path,
    out: str | Path,
    *,
    per_frame: int = 6,
    every: int = 10,
    test_share: float = 0.2,
    seed: int = 0,
    view: View | None = None,
    console: Console | None = None,
) -> dict[Split, Counter[str]]:
    """Make a folder of questions, whole or not at all.

    It holds ``train.jsonl`` and ``test.jsonl``, whose lines are MSMU's (see `fathom.vlm.scoring.msmu`; the response is
    what a model adds) with more facts; ``images/`` and ``depth/`` (16 bits, millimetres, 0 where it is not known), to
    which the lines refer; and ``questions.json`` with how it was made. A scene, that is an episode, is in one split
    only. Everything follows from the dataset and the arguments.

    Args:
        dataset: with the features ``main``, ``main_depth`` in metres, and ``main_segmentation`` with its names.
        out: must not exist.
        per_frame: questions at most.
        every: how many frames lie between two that are asked about: neighbours look alike.
        test_share: of the episodes, at least one.
        view: how the camera ``main`` sees; by default what the dataset says, see :func:`recorded_view`.

    Returns:
        how many questions there are of each kind.

    Raises:
        UserError: an argument, the dataset or its camera is not as expected, or there is nothing to ask about.
    """
    root, out = Path(dataset), Path(out)
    if per_frame < 1 or every < 1 or not 0 < test_share < 1:
        raise UserError(
            f"per_frame = {per_frame}, every = {every}, test_share = {test_share}: the first two are at least 1, and "
            "the last lies between 0 and 1."
        )
    if out.exists():
        raise UserError(f"{out}: something is already here; remove it, or choose another folder.")
    frames = _open(root)
    view = view or recorded_view(root)
    split_of = _split([episode.index for episode in frames.episodes], test_share, seed, root)
    counts: dict[Split, Counter[str]] = {"train": Counter(), "test": Counter()}
    lines: dict[Split, list[str]] = {"train": [], "test": []}
    with _whole_folder(out) as folder, full_disk_is_told(out), progress_bar(console or Console(stderr=True)) as bar:
        chosen = np.flatnonzero(np.asarray(frames.columns["frame_index"]) % every == 0).tolist()
        task = bar.add_task("asking", total=len(chosen), note="frames")
        for frame in chosen:
            split = split_of[int(frames.columns["episode_index"][frame])]
            for line in _ask(frames, frame, view, folder, per_frame, seed):
                counts[split][line["kind"]] += 1
                lines[split].append(json.dumps(line, ensure_ascii=False) + "\n")
            bar.advance(task)
        for split, written in lines.items():
            if not written:
                raise UserError(
                    f"{root}: no frame of the {split} episodes shows an object that one could ask about; take more "
                    "episodes, a smaller `every`, or a camera that is nearer."
                )
            write_file(folder / f"{split}.jsonl", "".join(written).encode())
        about = {"view": asdict(view), "per_frame": per_frame, "every": every, "test_share": test_share, "seed": seed}
        write_json(folder / "questions.json", about | {"counts": counts})
    return counts


def recorded_view(root: Path) -> View:
    """How the camera ``main`` of a dataset sees: ``cameras.main`` of its ``meta/collection.json``.

    Raises:
        UserError: the dataset does not say it.
    """
    path = root / "meta" / "collection.json"
    try:
        return View(**json.loads(path.read_text())["cameras"]["main"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: does not say how the camera 'main' sees; give its vertical field of view with --fovy, and how "
            "many degrees it looks down with --tilt."
        ) from None


def _open(root: Path) -> LeRobotDataset:
    info = DatasetInfo.load(root)
    names, depth = (info.features.get(name) for name in (LABELS, MAIN_DEPTH))
    if names is None or not names.label_names:
        raise UserError(
            f"{root}: there is no {LABELS} with the names of its labels; collect the dataset with --segmentation."
        )
    if depth is not None and depth.depth_kind != "metric":
        raise UserError(f"{root}: main_depth is relative inverse depth; questions need depth in metres.")
    return open_dataset(root, cameras=["main"], depth=["main_depth"], labels=["main_segmentation"])


def _split(episodes: list[int], test_share: float, seed: int, root: Path) -> dict[int, Split]:
    """Draw the split of each episode."""
    if len(episodes) < 2:
        raise UserError(f"{root}: has {len(episodes)} episode, but training and test need different ones: at least 2.")
    tests = min(max(1, round(len(episodes) * test_share)), len(episodes) - 1)
    order = np.random.default_rng(seed).permutation(episodes).tolist()
    return {episode: "test" if place < tests else "train" for place, episode in enumerate(order)}


def _ask(
    frames: LeRobotDataset, frame: int, view: View, folder: Path, per_frame: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The lines of one frame; its pictures are written if there are any."""
    episode, number = (int(frames.columns[name][frame]) for name in ("episode_index", "frame_index"))
    depth, labels = _depth(frames, frame), frames.picture(LABELS, frame)[0]
    task = frames.tasks[int(frames.columns["task_index"][frame])]
    names = {label: named_by_task(name, task) for label, name in frames.info.features[LABELS].label_names.items()}
    scene = look(depth, labels, names, view)
    questions = make_questions(scene, per_frame, np.random.default_rng([seed, episode, number]))
    if not questions:
        return
    name = f"{episode:06d}-{number:04d}"
    places = {"image": f"images/{name}.png", "depth": f"depth/{name}.png"}
    _save(frames.picture(MAIN, frame).transpose(1, 2, 0), folder / places["image"])
    _save(np.rint(depth * MILLIMETRES_PER_METRE).clip(0, 65535).astype(np.uint16), folder / places["depth"])
    for place, question in enumerate(questions):
        yield {"id": f"{name}-{place}", **asdict(question), **places, "scene": episode, "frame": number}


def _depth(frames: LeRobotDataset, frame: int) -> DepthMap:
    """Metres; 0 where it is not known, and where it is so far that the code has no number for it."""
    depth: Float[np.ndarray, "height width"] = frames.picture(MAIN_DEPTH, frame)[0]
    feature = frames.info.features[MAIN_DEPTH]
    farthest = feature.depth_codec.maximum if feature.dtype == "video" else np.inf
    return np.where(depth < farthest, depth, 0)


def _save(picture: UInt8[np.ndarray, "height width 3"] | NDArray[np.uint16], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture)).save(path)


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to write to, which gets its name when all is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
