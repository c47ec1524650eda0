"""Where pictures come from: a folder of files, a LeRobot dataset, or a data set of the datasets library."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import IMAGES
from fathom.errors import UserError
from fathom.vlm.depth_input import UNREADABLE, read_image

_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Picture:
    """One picture, not read yet.

    Attributes:
        name: of its files to be, without an ending; it may name folders.
        read: gives it as RGB, or a ``UserError``.
        file: where it is, if it is a file of its own.
        depth: gives metres (height, width), where they were recorded with it.
    """

    name: str
    read: Callable[[], Image.Image]
    file: Path | None = None
    depth: Callable[[], np.ndarray] | None = None

    @property
    def suffix(self) -> str:
        """Of the file that it is copied to."""
        return ".png" if self.file is None else self.file.suffix.lower()


def open_pictures(
    source: str | Path, *, camera: str = "main", every: int = 1, column: str | None = None, split: str = "train"
) -> Sequence[Picture]:
    """The pictures of a source, see :func:`fathom.vlm.pairs.make_pairs`.

    Raises:
        UserError: there are none.
    """
    path = Path(source)
    if (path / "meta" / "info.json").is_file():
        return _of_lerobot(path, camera, every)
    if path.is_dir() and not _is_library_data(path):
        return _of_folder(path)
    return _of_library(source, column, split)


def _of_folder(folder: Path) -> list[Picture]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
    if not files:
        raise UserError(f"{folder}: has no pictures; expected files ending in {', '.join(sorted(_ENDINGS))}.")
    return [Picture(name, partial(read_image, path), path) for path, name in _names(files, folder).items()]


def _names(files: Sequence[Path], folder: Path) -> dict[Path, str]:
    """A name of its own for each file: its path without the ending, where no other file has the same."""
    names = {path: path.relative_to(folder).with_suffix("").as_posix() for path in files}
    counts = Counter(names.values())
    taken = {name for name, count in counts.items() if count == 1}
    for path, name in names.items():
        if counts[name] > 1:  # both a.jpg and a.png
            name = f"{name}_{path.suffix[1:]}"
            while name in taken:  # and a_png.jpg, too
                name += "_"
            taken.add(name)
            names[path] = name
    return names


def _of_lerobot(root: Path, camera: str, every: int) -> list[Picture]:
    depth = f"{IMAGES}{camera}_depth"
    has_depth = depth in open_dataset(root, cameras=[camera], depth=False).info.features
    dataset = open_dataset(root, cameras=[camera], depth=[f"{camera}_depth"] if has_depth else False)
    metric = has_depth and dataset.info.features[depth].depth_kind == "metric"
    pictures = []
    for index, (episode, frame) in enumerate(
        zip(dataset.columns["episode_index"], dataset.columns["frame_index"], strict=True)
    ):
        if int(frame) % every == 0:
            pictures.append(
                Picture(
                    f"{int(episode):06d}-{int(frame):04d}",
                    partial(_frame, dataset, f"{IMAGES}{camera}", index),
                    depth=partial(_metres, dataset, depth, index) if metric else None,
                )
            )
    return pictures


def _frame(dataset: LeRobotDataset, name: str, index: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(dataset.picture(name, index).transpose(1, 2, 0)))


def _metres(dataset: LeRobotDataset, name: str, index: int) -> np.ndarray:
    """0 where it is not known, and where it is so far that the dataset's code has no number for it."""
    values, feature = dataset.picture(name, index)[0], dataset.info.features[name]
    farthest = feature.depth_codec.maximum if feature.dtype == "video" else np.inf
    return np.where(values < farthest, values, 0).astype(np.float32)


def _is_library_data(folder: Path) -> bool:
    """Whether the datasets library wrote it, or could read it as it is."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")) or any(
        folder.rglob("*.parquet")
    )


def _of_library(source: str | Path, column: str | None, split: str) -> list[Picture]:
    try:
        datasets = import_module("datasets")  # not required of anyone: who has such data sets has it
    except ImportError:
        raise UserError(
            f"{source}: is no folder of pictures, and data sets of the datasets library need it: pip install datasets"
        ) from None
    data = _loaded(datasets, source, split)
    columns = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if column is None and len(columns) != 1:
        raise UserError(
            f"{source}: has the columns of pictures {', '.join(columns) or '(none)'}: name one with --column."
        )
    column = column or columns[0]
    if column not in columns:
        raise UserError(f"{source}: has no column {column!r} of pictures; there is: {', '.join(columns) or 'none'}.")
    undecoded = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return [Picture(f"{row:08d}", partial(_cell, undecoded, row, column, source)) for row in range(len(undecoded))]


def _loaded(datasets: Any, source: str | Path, split: str) -> Any:
    path = Path(source)
    try:
        if (path / "state.json").is_file():
            return datasets.load_from_disk(str(path))
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))[split]
        return datasets.load_dataset(str(source), split=split)
    except Exception as error:  # the library's own errors, the hub's, and those of the network beneath it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source}: is neither a folder of pictures nor a data set with a split {split!r} ({reason})"
        ) from error


def _cell(data: Any, row: int, column: str, source: str | Path) -> Image.Image:
    cell = data[row][column]
    try:
        with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
            return image.convert("RGB")
    except (TypeError, *UNREADABLE) as error:
        raise UserError(f"{source}, row {row}: '{column}' cannot be read as a picture ({error})") from None
