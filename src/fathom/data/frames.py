"""The rows of the data tables: small columns in memory, pictures read when asked for."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fathom.data.features import INDEX_FEATURES, Feature
from fathom.data.images import decode_image
from fathom.data.metadata import Episode, damaged, open_parquet, read_table
from fathom.errors import UserError

Column = NDArray[Any] | list[Any]


def read_columns(episodes: Sequence[Episode], features: Mapping[str, Feature]) -> dict[str, Column]:
    """The columns of everything that is no picture, over the frames of ``episodes``, in their order.

    Returns:
        arrays (frames, *shape), (frames,) for LeRobot's index columns; lists where the content is text.

    Raises:
        UserError: rows are missing or damaged, or a state or action is not finite.
    """
    small = {name: feature for name, feature in features.items() if feature.dtype not in ("video", "image")}
    tables = {path: _by_index(read_table(path, list(small))) for path in dict.fromkeys(e.data for e in episodes)}
    slices = [_slice(*tables[episode.data], episode) for episode in episodes]
    if not slices:
        return {name: np.empty((0, *feature.shape), np.float32) for name, feature in small.items()}
    whole = pa.concat_tables(slices)
    columns = {name: _column(whole[name], name, feature) for name, feature in small.items()}
    for name, column in columns.items():
        _check_finite(name, column, columns, episodes)
    return columns


def _by_index(table: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows in the order of ``index``, and that column."""
    rows = table["index"].to_numpy()
    if (np.diff(rows) > 0).all():
        return table, rows
    order = np.argsort(rows, kind="stable")
    return table.take(pa.array(order)), rows[order]


def _slice(table: pa.Table, rows: NDArray[np.int64], episode: Episode) -> pa.Table:
    first, after = np.searchsorted(rows, (episode.start, episode.start + episode.length))
    if not np.array_equal(rows[first:after], np.arange(episode.start, episode.start + episode.length)):
        raise UserError(
            f"{episode.data}: episode {episode.index} should have {episode.length} frames, {after - first} are there; "
            "copy the file again from the dataset's source."
        )
    return table.slice(first, episode.length)


def _column(column: pa.ChunkedArray, name: str, feature: Feature) -> Column:
    if feature.kind == "text":
        return column.to_pylist()
    if pc.any(pc.is_null(column)).as_py():
        raise UserError(f"{name}: a frame has no value; record it again or drop the episode.")
    array = column.combine_chunks()
    if isinstance(array, pa.ExtensionArray):  # matrices, where Hugging Face datasets is imported too
        array = array.storage
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False)
    return values.reshape(len(column), *(() if name in INDEX_FEATURES else feature.shape))


def _check_finite(name: str, column: Column, columns: Mapping[str, Column], episodes: Sequence[Episode]) -> None:
    if not isinstance(column, np.ndarray) or not np.issubdtype(column.dtype, np.floating):
        return
    finite = np.isfinite(column).reshape(len(column), -1).all(axis=1)
    if finite.all():
        return
    row = int(np.argmin(finite))
    number = columns["episode_index"][row]
    file = next(episode.data for episode in episodes if episode.index == number)
    raise UserError(
        f"{file}: {name} of episode {number}, frame {columns['frame_index'][row]} is not finite (NaN or infinite); "
        "correct it, or leave the episode out with episodes=…"
    )


class ImageColumns:
    """Pictures inside the data tables, decoded one by one; the row groups read last are kept."""

    def __init__(self, features: Mapping[str, Feature], keep: int = 8) -> None:
        self._features = dict(features)
        self._keep = keep
        self._groups: OrderedDict[tuple[Path, int], tuple[NDArray[np.int64], pa.Table]] = OrderedDict()
        self._bounds: dict[Path, list[tuple[int, int]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageColumns, (self._features, self._keep)

    def get(self, name: str, path: Path, index: int) -> NDArray[Any]:
        """A picture of the frame with that index in the dataset, channels first, depth in metres.

        Raises:
            UserError: the file or one picture is damaged.
        """
        for group in self._candidates(path, index):
            rows, table = self._group(path, group)
            places = np.flatnonzero(rows == index)
            if len(places):
                return self._decode(path, table, name, int(places[0]), index)
        raise UserError(f"{path}: frame {index} is missing; copy the file again from the dataset's source.")

    def _decode(self, path: Path, table: pa.Table, name: str, place: int, index: int) -> NDArray[Any]:
        content = table[name][place].as_py()
        content = content["bytes"] if isinstance(content, dict) else content
        try:
            if content is None:
                raise OSError("no bytes")
            return decode_image(content, self._features[name])
        except (OSError, SyntaxError) as error:  # Pillow raises the second on broken PNG
            raise UserError(
                f"{path}: {name} of frame {index} cannot be read ({error}), the file is damaged; "
                "copy it again from the dataset's source."
            ) from error

    def _candidates(self, path: Path, index: int) -> list[int]:
        """The row groups that may hold a frame, by the statistics in the file's footer."""
        if path not in self._bounds:
            with open_parquet(path) as file:
                # counted in leaves: a column of structs before has several
                leaf = next(i for i in range(file.metadata.num_columns) if file.schema.column(i).path == "index")
                bounds = []
                for group in range(file.num_row_groups):
                    statistics = file.metadata.row_group(group).column(leaf).statistics
                    bounds.append((statistics.min, statistics.max) if statistics else (0, np.iinfo(np.int64).max))
            self._bounds[path] = bounds
        return [group for group, (low, high) in enumerate(self._bounds[path]) if low <= index <= high]

    def _group(self, path: Path, group: int) -> tuple[NDArray[np.int64], pa.Table]:
        key = path, group
        if key not in self._groups:
            with open_parquet(path) as file:
                try:
                    table = file.read_row_group(group, columns=["index", *self._features], use_threads=False)
                except (pa.ArrowException, OSError) as error:
                    raise damaged(path, error) from error
            self._groups[key] = table["index"].to_numpy(), table
            if len(self._groups) > self._keep:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]
