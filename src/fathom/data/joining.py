"""Episodes' own videos joined into the files of a dataset, without encoding them again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.data.features import DatasetInfo
from fathom.data.staging import StagedEpisode
from fathom.data.video import join_videos, stream_header

MEGABYTE = 1 << 20


@dataclass
class Shelf:
    """Fills files up to a size and folders up to a number of files."""

    limit_mb: float
    files_per_chunk: int
    file: int = 0
    filled: int = 0

    def put(self, size: int, new_file: bool = False) -> dict[str, int]:
        """Where ``size`` more bytes go."""
        if self.filled and (new_file or self.filled + size >= self.limit_mb * MEGABYTE):
            self.file, self.filled = self.file + 1, 0
        self.filled += size
        chunk, file = divmod(self.file, self.files_per_chunk)
        return {"chunk_index": chunk, "file_index": file}


def join_episodes(root: Path, info: DatasetInfo, name: str, episodes: Sequence[StagedEpisode]) -> list[dict[str, Any]]:
    """Write the video files of the feature ``name`` under ``root``.

    Returns:
        for each episode what the episode table says of it: file, begin and end.
    """
    shelf = Shelf(info.video_files_size_in_mb, info.chunks_size)
    files: dict[tuple[int, int], list[StagedEpisode]] = {}
    rows: list[dict[str, Any]] = []
    header = None
    for episode in episodes:
        path = episode.video(name)
        own = stream_header(path)
        # a run taken up with another encoder version: its packets need a file of their own
        place = shelf.put(path.stat().st_size, new_file=header not in (None, own))
        header = own
        parts = files.setdefault((place["chunk_index"], place["file_index"]), [])
        before = sum(part.length for part in parts)
        row: dict[str, Any] = {f"videos/{name}/{key}": value for key, value in place.items()}
        row[f"videos/{name}/from_timestamp"] = before / info.fps
        row[f"videos/{name}/to_timestamp"] = (before + episode.length) / info.fps
        rows.append(row)
        parts.append(episode)
    for (chunk, number), parts in files.items():
        target = root / str(info.video_path).format(video_key=name, chunk_index=chunk, file_index=number)
        join_videos([part.video(name) for part in parts], [part.length for part in parts], int(info.fps), target)
    return rows
