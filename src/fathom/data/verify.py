"""Does our reader return what lerobot's own reader returned? (``fathom verify lerobot``)"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fathom.data.dataset import open_dataset
from fathom.data.features import ACTION, MILLIMETRES_PER_METRE, DatasetInfo, Feature, camera_name
from fathom.errors import UserError

RGB_LEVELS = 2.0
DEPTH_MILLIMETRES = 1.0
Values = NDArray[Any]
_NOT_COMPARED = {"indices", "depth_true_mm"}


def verify_lerobot(dataset_path: str | Path, expected_npz: str | Path) -> dict[str, Any]:
    """Compares our reader with the arrays in ``expected_npz`` (see ``reference/README.md``).

    Returns:
        ``{"ok", "max": {name: largest absolute difference}, "tolerance": {name: bound}}``; colour in levels of 255,
        depth in millimetres, text by the share of frames that differ.

    Raises:
        UserError: a file is missing or damaged, or names something that the dataset has not.
    """
    expected = _load(Path(expected_npz))
    info = DatasetInfo.load(Path(dataset_path))
    labels = [camera_name(key) for key in info.keys("labels")]
    horizon = expected[ACTION].shape[1] if ACTION in expected else 1
    dataset = open_dataset(dataset_path, horizon=horizon, depth=bool(info.keys("depth")), labels=labels)
    if expected["indices"].max() >= len(dataset):
        raise UserError(f"{expected_npz}: frame {expected['indices'].max()} is expected, but there are {len(dataset)}.")
    samples = [dataset[int(i)] for i in expected["indices"]]
    largest, tolerance = {}, {}
    for name, theirs in expected.items():
        if name in _NOT_COMPARED:
            continue
        if name not in samples[0]:
            raise UserError(f"{expected_npz}: {name!r} is not in {dataset_path}; there is: {', '.join(samples[0])}.")
        ours = np.stack([np.asarray(sample[name]) for sample in samples])
        kind = info.features[name].kind if name in info.features else "vector"
        if kind == "depth":
            ours = _in_lerobots_unit(ours, theirs, info.features[name])
        tolerance[name] = {"rgb": RGB_LEVELS, "depth": DEPTH_MILLIMETRES}.get(kind, 0.0)
        largest[name] = _difference(name, ours, theirs)
    ok = all(largest[name] <= tolerance[name] for name in largest)
    return {"ok": ok, "max": largest, "tolerance": tolerance}


def _load(path: Path) -> dict[str, Values]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the .npz that lerobot's reader filled.")
    try:
        with np.load(path) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: not a readable .npz file ({error}).") from error
    if not len(loaded.get("indices", ())):
        raise UserError(f"{path}: an array 'indices' with the frames to compare is expected.")
    return loaded


def _in_lerobots_unit(metres: Values, theirs: Values, feature: Feature) -> Values:
    """lerobot returns millimetres, except for images without a unit, whose numbers it leaves as they are."""
    if feature.dtype == "image" and feature.depth_unit is None and np.nanmax(theirs) < 10 * np.nanmax(metres):
        return metres
    return metres * np.float32(MILLIMETRES_PER_METRE)


def _difference(name: str, ours: Values, theirs: Values) -> float:
    if ours.size != theirs.size:
        raise UserError(f"{name}: our reader returns shape {ours.shape}, but {theirs.shape} is expected.")
    theirs = theirs.reshape(ours.shape)  # vectors of one component: lerobot drops their axis
    if not np.issubdtype(theirs.dtype, np.number):
        return float(np.mean(ours != theirs))
    differences = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    differences[np.isnan(ours) & np.isnan(theirs)] = 0.0
    return float(np.nan_to_num(differences, nan=float(np.finfo(np.float32).max)).max())
