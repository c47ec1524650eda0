"""Further columns for the tables of a dataset that is already there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fathom.data.features import Feature
from fathom.data.metadata import Episode, damaged, open_parquet
from fathom.data.staging import StagedEpisode
from fathom.data.tables import column_kind
from fathom.errors import UserError
from fathom.files import atomically

_HUGGING_FACE = b"huggingface"


def add_column(name: str, feature: Feature, episodes: Sequence[Episode], staged: Sequence[StagedEpisode]) -> None:
    """Write each data file of a dataset again with one column more, or with it in place of one that a killed run left.

    Rows and row groups stay as they are, and each file is whole at any time. A reader that takes only the columns of
    ``info.json`` does not see the new one before that names it.

    Args:
        staged: of each of the ``episodes`` what was staged, with the column ``name``.

    Raises:
        UserError: a file is damaged, or holds a frame of no episode.
    """
    for path in dict.fromkeys(episode.data for episode in episodes):
        values = {e.start: s.columns()[name] for e, s in zip(episodes, staged, strict=True) if e.data == path}
        lengths = {e.start: e.length for e in episodes if e.data == path}
        with open_parquet(path) as file, atomically(path) as temporary:
            _rewrite(file, temporary, name, feature, _Column(path, values, lengths))


class _Column:
    """The new column's values, found by the frames' index in the dataset."""

    def __init__(self, path: Path, values: Mapping[int, pa.ChunkedArray], lengths: Mapping[int, int]) -> None:
        starts = sorted(values)
        self.path = path
        self.row_of = {
            start + offset: row
            for row, (start, offset) in enumerate((s, offset) for s in starts for offset in range(lengths[s]))
        }
        self.whole = pa.concat_arrays([chunk for start in starts for chunk in values[start].chunks])

    def of(self, indices: Sequence[int]) -> pa.Array:
        """The values of these frames."""
        try:
            return self.whole.take(pa.array([self.row_of[index] for index in indices]))
        except KeyError as error:
            raise UserError(f"{self.path}: frame {error} belongs to no episode; restore the file.") from None


def _rewrite(file: pq.ParquetFile, target: Path, name: str, feature: Feature, column: _Column) -> None:
    groups = _groups(file, column.path)
    writer: pq.ParquetWriter | None = None
    try:
        for table in groups:
            metadata = _told(table.schema.metadata or {}, name, feature)
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, column.of(table["index"].to_pylist())).replace_schema_metadata(metadata)
            if writer is None:
                writer = pq.ParquetWriter(target, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _groups(file: pq.ParquetFile, path: Path) -> Iterator[pa.Table]:
    for number in range(file.num_row_groups):
        try:
            yield file.read_row_group(number, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error


def _told(metadata: Mapping[bytes, bytes], name: str, feature: Feature) -> dict[bytes, bytes]:
    """The file's own note for Hugging Face datasets, with the new column; where there is none, none is needed."""
    if _HUGGING_FACE not in metadata:
        return dict(metadata)
    note: dict[str, Any] = json.loads(metadata[_HUGGING_FACE])
    note["info"]["features"][name] = column_kind(feature)
    return {**metadata, _HUGGING_FACE: json.dumps(note).encode()}
