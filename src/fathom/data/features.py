"""What a dataset holds: its features and the facts in ``meta/info.json`` (LeRobot v3.0)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from fathom.data.depth_codec import DepthCodec
from fathom.depth.depth_map import DepthKind
from fathom.errors import UserError

VERSION = "v3.0"
IMAGES = "observation.images."
STATE = "observation.state"
ACTION = "action"
MAIN_DEPTH = f"{IMAGES}main_depth"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

Kind = Literal["rgb", "depth", "labels", "vector", "text"]
MILLIMETRES_PER_METRE = 1000.0


@dataclass(frozen=True)
class Feature:
    """One named quantity of a dataset, as LeRobot describes it.

    Attributes:
        dtype: ``video`` or ``image`` for pictures, else the numpy name of the stored type.
        shape: of one frame; pictures are (height, width, channels) unless ``names`` says otherwise.
        names: of the axes (pictures) or of the components (vectors).
        info: whatever else LeRobot notes, such as the codec or the unit of a depth map.
    """

    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def rgb(cls, height: int, width: int) -> Self:
        """A colour camera, stored as video."""
        return cls("video", (height, width, 3), ["height", "width", "channels"], {"is_depth_map": False})

    @classmethod
    def depth(cls, height: int, width: int, kind: DepthKind = "metric") -> Self:
        """A depth camera, stored losslessly as 12-bit codes in a video; where a pixel has no depth it is 0.

        Metres have LeRobot's logarithmic codes. Relative inverse depth, normalised to (0, 1], has linear ones; a reader
        that does not know of ``fathom.depth_kind`` takes it for metres.
        """
        relative = DepthCodec(minimum=0.0, maximum=1.0, use_log=False, holes=True)
        codec = DepthCodec(holes=True) if kind == "metric" else relative
        info = {"is_depth_map": True, "depth_unit": "mm" if kind == "metric" else "m", **codec.to_info()}
        return cls("video", (height, width, 1), ["height", "width", "channels"], {**info, "fathom.depth_kind": kind})

    @classmethod
    def segmentation(cls, height: int, width: int, names: Mapping[int, str]) -> Self:
        """Integer labels (0…65535), stored as 16-bit PNG, with the name of each label.

        PNG rather than a lossless video because lerobot's reader hands 16-bit PNG back with its values
        unchanged, while it decodes every video that is not a depth map to three 8-bit channels.
        """
        info = {"is_depth_map": False, "label_names": {str(label): name for label, name in names.items()}}
        return cls("image", (height, width, 1), ["height", "width", "channels"], info)

    @classmethod
    def vector(cls, names: Sequence[str] | int, dtype: str = "float32") -> Self:
        """A vector with named components, or with that many unnamed ones."""
        if isinstance(names, int):
            return cls(dtype, (names,))
        return cls(dtype, (len(names),), list(names))

    @property
    def kind(self) -> Kind:
        if self.dtype in ("video", "image"):
            # older datasets mark depth with the second key
            if self.info.get("is_depth_map") or self.info.get("video.is_depth_map"):
                return "depth"
            # a grey video is decoded as colour, as in lerobot
            return "labels" if self.dtype == "image" and self.picture_shape[2] == 1 else "rgb"
        return "text" if self.dtype in ("string", "language") else "vector"

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) in whichever order the dataset wrote them."""
        names = self.names if isinstance(self.names, (list, tuple)) else []
        if len(names) == 3 and str(names[0]).startswith("channel"):
            channels, height, width = self.shape
            return height, width, channels
        height, width, channels = self.shape
        return height, width, channels

    @property
    def depth_codec(self) -> DepthCodec:
        return DepthCodec.from_info(self.info)

    @property
    def depth_kind(self) -> DepthKind:
        """What depth in this feature means; metres where nothing else is said."""
        return self.info.get("fathom.depth_kind", "metric")

    @property
    def depth_unit(self) -> str | None:
        """The unit in which depth was recorded: ``mm``, ``m`` or, in old datasets, unknown."""
        return self.info.get("depth_unit")

    @property
    def label_names(self) -> dict[int, str]:
        return {int(label): name for label, name in self.info.get("label_names", {}).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        info = {**(raw.get("video_info") or {}), **(raw.get("info") or {})}
        return cls(raw["dtype"], tuple(raw["shape"]), raw.get("names"), info)

    def to_json(self) -> dict[str, Any]:
        raw: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        return {**raw, "info": dict(self.info)} if self.info else raw


INDEX_FEATURES = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


@dataclass(frozen=True)
class DatasetInfo:
    """The content of ``meta/info.json``."""

    fps: float
    features: Mapping[str, Feature]
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    chunks_size: int = 1000
    data_files_size_in_mb: float = 100
    video_files_size_in_mb: float = 200
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH
    robot_type: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path) -> Self:
        """Reads ``root/meta/info.json``.

        Raises:
            UserError: there is no dataset, it is of another version, or the file is damaged.
        """
        path = root / "meta" / "info.json"
        if not root.is_dir():
            raise UserError(f"{root}: there is no dataset here; give the folder that holds meta/info.json.")
        if not path.is_file():
            raise UserError(f"{root}: not a LeRobot dataset, meta/info.json is missing.")
        try:
            raw = json.loads(path.read_text())
            version = str(raw["codebase_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a readable LeRobot info file ({error!r}); restore it.") from error
        if not version.startswith("v3."):
            hint = "convert it with `fathom convert lerobot-v21`" if version in ("v2.0", "v2.1") else ""
            raise UserError(
                f"{root}: a LeRobot {version} dataset, but {VERSION} is expected; {hint or 'convert it with lerobot'}."
            )
        try:
            features = {name: Feature.from_json(feature) for name, feature in raw["features"].items()}
            known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
            return cls(**{**known, "features": features, "splits": raw.get("splits") or {}})
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: a field is missing or of the wrong type ({error}); restore the file.") from error

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        features = {name: feature.to_json() for name, feature in self.features.items()}
        return {"codebase_version": VERSION, **plain, "features": features, "splits": dict(self.splits)}

    def keys(self, kind: Kind) -> list[str]:
        """The names of the features of one kind."""
        return [name for name, feature in self.features.items() if feature.kind == kind]


def camera_name(key: str) -> str:
    """``observation.images.main`` → ``main``."""
    return key.removeprefix(IMAGES)
