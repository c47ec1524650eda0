"""Looking at a dataset: pictures, depth, codes, actions and instruction of its episodes, as a page or in Rerun."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import ACTION, DatasetInfo, camera_name
from fathom.depth.depth_map import DepthKind
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.files import write_file

from .figures import COLOURS, style, to_svg
from .html import data_uri, page, paragraph, section, table, text


def write_contact_sheet(
    dataset_path: str | Path,
    out: Path,
    *,
    episodes: Sequence[int] | None = None,
    frames: int = 6,
    tokenizer: DepthTokenizer | None = None,
) -> Path:
    """Write one HTML file that needs nothing beside it.

    Args:
        episodes: which; by default the first three.
        frames: of each, spread evenly.
        tokenizer: also show the codes that it gives to depth of its kind.

    Raises:
        UserError: there is no dataset or no such episode, it is damaged, or no frame is asked for.
    """
    root = Path(dataset_path)
    if frames < 1:
        raise UserError(f"frames is {frames}: at least 1 is needed")
    info = DatasetInfo.load(root)
    chosen = list(range(min(3, info.total_episodes))) if episodes is None else list(episodes)
    parts = [f"<h1>{text(root.name)}</h1>", paragraph(_facts(info))]
    parts += [_episode(_open(root, info, number), frames, tokenizer) for number in chosen]
    write_file(out, page(f"Fathom · {root.name}", parts).encode())
    return out


def show_in_rerun(
    dataset_path: str | Path, episode: int, out: Path | None = None, tokenizer: DepthTokenizer | None = None
) -> None:
    """Open an episode in Rerun's viewer, or save it for that as ``out`` (``.rrd``).

    Raises:
        UserError: Rerun is not installed, there is no such episode, or it is damaged.
    """
    try:
        import rerun as rr  # half a gigabyte: an extra
    except ImportError:
        raise UserError("--rerun needs Rerun's SDK: pip install 'fathom-vla[rerun]'") from None
    root = Path(dataset_path)
    dataset = _open(root, DatasetInfo.load(root), episode)
    rr.init(f"fathom {root.name}", spawn=out is None)
    if out is not None:
        rr.save(str(out))
    for frame in range(len(dataset)):
        sample = dataset[frame]
        rr.set_time("frame", sequence=frame)
        rr.log("instruction", rr.TextLog(sample["task"]))
        for name in dataset.pictures:
            picture = sample[name].numpy()
            kind = dataset.info.features[name].kind
            if kind == "rgb":
                rr.log(f"camera/{camera_name(name)}", rr.Image(picture.transpose(1, 2, 0)))
            elif kind == "depth":
                meaning = dataset.info.features[name].depth_kind
                unit = {"meter": 1.0} if meaning == "metric" else {}
                rr.log(f"depth/{camera_name(name)}", rr.DepthImage(picture[0], **unit))
                if tokenizer is not None and tokenizer.config.kind == meaning:
                    codes = _codes(tokenizer, picture[None])[0]
                    rr.log(f"codes/{camera_name(name)}", rr.SegmentationImage(codes.astype(np.uint16)))
        for number, value in enumerate(np.atleast_1d(sample[ACTION].numpy().squeeze(0)) if ACTION in sample else ()):
            rr.log(f"action/{number}", rr.Scalars(float(value)))


def _open(root: Path, info: DatasetInfo, episode: int) -> LeRobotDataset:
    return open_dataset(root, depth=bool(info.keys("depth")), episodes=[episode])


def _facts(info: DatasetInfo) -> str:
    return (
        f"{info.total_episodes} episodes, {info.total_frames} frames at {info.fps:g} per second, "
        f"{info.total_tasks} instructions; "
        + ", ".join(f"{camera_name(name)} {_size(info, name)}" for kind in ("rgb", "depth") for name in info.keys(kind))
    )


def _size(info: DatasetInfo, name: str) -> str:
    feature = info.features[name]
    height, width, _ = feature.picture_shape
    meaning = f", {feature.depth_kind.replace('_', ' ')}" if feature.kind == "depth" else ""
    return f"({width}×{height}{meaning})"


def _episode(dataset: LeRobotDataset, frames: int, tokenizer: DepthTokenizer | None) -> str:
    (episode,) = dataset.episodes
    shown = np.unique(np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).round().astype(int)).tolist()
    head = ["", *(f"frame {frame}" for frame in shown)]
    rows = []
    for name in dataset.cameras:
        rows.append([text(camera_name(name)), *(_picture(_colour(dataset, name, frame)) for frame in shown)])
    for name in (name for name in dataset.pictures if dataset.info.features[name].kind == "depth"):
        maps = np.stack([dataset.picture(name, frame) for frame in shown])
        kind = dataset.info.features[name].depth_kind
        rows.append([text(camera_name(name)), *(_picture(picture) for picture in _coloured(maps[:, 0], kind))])
        if tokenizer is not None and tokenizer.config.kind == kind:
            codes = _codes(tokenizer, maps)
            coloured = mpl.colormaps["tab20"](codes % 20)
            rows.append(
                [
                    f"codes of {text(camera_name(name))}",
                    *(_picture((255 * c[..., :3]).astype(np.uint8)) for c in coloured),
                ]
            )
    return section(
        f"Episode {episode.index}",
        paragraph(f"“{'”, “'.join(episode.tasks)}”, {episode.length} frames"),
        table(head, rows),
        _actions(dataset),
    )


def _colour(dataset: LeRobotDataset, name: str, frame: int) -> NDArray[np.uint8]:
    return dataset.picture(name, frame).transpose(1, 2, 0)


def _coloured(depth: NDArray[np.float32], kind: DepthKind) -> NDArray[np.uint8]:
    """Depth (frames, H, W) of one episode on one scale, nearest bright; white where it is not known."""
    known = depth > 0
    # metres: the logarithm, and small is near; relative inverse depth as it is, and large is near
    shade = -np.log(np.where(known, depth, 1)) if kind == "metric" else depth
    low, high = np.percentile(shade[known], [1, 99]) if known.any() else (0, 1)
    colours = mpl.colormaps["viridis"]((shade - low) / max(high - low, 1e-6))[..., :3]
    return (255 * np.where(known[..., None], colours, 1)).astype(np.uint8)


def _codes(tokenizer: DepthTokenizer, depth: NDArray[np.float32]) -> NDArray[np.int64]:
    """The codes (frames, grid, grid) of depth (frames, 1, H, W)."""
    grid = tokenizer.config.grid
    return tokenizer.encode(torch.from_numpy(depth)).reshape(-1, grid, grid).numpy()


def _picture(pixels: NDArray[np.uint8], side: int = 112) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG")
    return f'<img width="{side}" height="{side}" alt="" src="{data_uri(buffer.getvalue(), "image/png")}">'


def _actions(dataset: LeRobotDataset) -> str:
    """Every component of the action over the episode, as curves."""
    if ACTION not in dataset.columns:
        return ""
    values = np.asarray(dataset.columns[ACTION])
    with style():
        figure = Figure(figsize=(7.2, 1.8), layout="constrained")
        axes = figure.subplots()
        for number, component in enumerate(values.T):
            axes.plot(component, linewidth=1.2, label=str(number), color=mpl.colormaps["tab10"](number % 10))
        axes.set_xlabel("frame")
        axes.set_title("action", fontsize=10, color=COLOURS["ink"], loc="left")
        figure.legend(fontsize=8, loc="outside right upper", handlelength=1)
        return to_svg(figure)
