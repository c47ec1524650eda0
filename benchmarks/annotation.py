"""How long the depth of episodes takes: ours against Video-Depth-Anything's own procedure, same weights, in turns.

    python benchmarks/annotation.py --size small --input-size 252 --frames 40 --episodes 1

Weights are random (the work does not depend on them). The peer is `peers/video_depth_anything.py`: its attention is
written out where the public code has no xformers (a CPU) and torch's own elsewhere; `official, sdpa` shows on a CPU
what is left when only the procedure differs. All contenders must first give the same depth. The last line of the output
is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from peers.video_depth_anything import OfficialVideoDepthAnything, eager
from rich.console import Console
from rich.table import Table
from timing import Rounds, take_turns, verdict
from torch.nn.functional import scaled_dot_product_attention

from fathom.depth.estimators.video_depth_anything import (
    SIZES,
    EncoderConfig,
    VideoDepthAnything,
    VideoDepthConfig,
    VideoDepthModel,
)

PEER = "official"
BAR = 1.3  # on 40-frame episodes
TOLERANCE = 1e-3  # of the depth's range
TINY = VideoDepthConfig(EncoderConfig(48, 4, 3, (0, 1, 2, 3), 70), 32, (32, 32, 32, 32))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the contenders' depths differ."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = random_model({**SIZES, "tiny": TINY}[options.size]).to(device)
    episodes = [moving_pictures(options.frames, *options.shape, seed=seed) for seed in range(options.episodes)]

    ours = VideoDepthAnything(model, "relative_inverse", input_size=options.input_size, device=device)
    sdpa = OfficialVideoDepthAnything(model, options.input_size, scaled_dot_product_attention)
    ways = {"fathom": lambda: [depth.values for depth in ours.estimate_many(episodes)]}
    if device.type == "cpu":
        official = OfficialVideoDepthAnything(model, options.input_size, eager)
        ways[PEER] = lambda: [official.infer(frames) for frames in episodes]
        ways["official, sdpa"] = lambda: [sdpa.infer(frames) for frames in episodes]
    else:
        ways[PEER] = lambda: [sdpa.infer(frames) for frames in episodes]
    differences = _differences({name: way() for name, way in ways.items()})
    if max(differences.values()) > TOLERANCE:
        print(f"the depths differ by {differences} of their range: nothing to compare", file=sys.stderr)
        return 1

    rounds = take_turns(ways, options.repeats, device)
    result = {
        "work": "depth annotation",
        "size": options.size,
        "input_size": options.input_size,
        "frames": options.frames,
        "episodes": options.episodes,
        "picture": options.shape,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}",
        "repeats": options.repeats,
        "seconds": {name: rounds.median(name) for name in ways},
        "frames_per_s": {name: options.frames * options.episodes / rounds.median(name) for name in ways},
        "peer_over_fathom": {name: rounds.ratio(name, "fathom") for name in ways if name != "fathom"},
        "difference": differences,
        "peak_gb": {name: peak / 1e9 for name, peak in rounds.peak_bytes.items() if peak},
    }
    _print(result, rounds)
    print(json.dumps(result))
    return 0


def random_model(config: VideoDepthConfig) -> VideoDepthModel:
    """Weights with which frames, places in time and windows all make a difference."""
    generator = torch.Generator().manual_seed(0)
    model = VideoDepthModel(config)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1")):
            tensor.copy_(0.5 + 0.1 * noise)
        else:
            tensor.copy_(noise * (0.7 / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 0.1))
    return model.eval().requires_grad_(False)


def moving_pictures(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """(frames, height, width, 3) uint8: waves that run through the picture."""
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    t, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (frames, height, width)), indexing="ij")
    waves = [np.sin(x / (40 + 9 * i) + t / 9 + phase[i]) * np.cos(y / 50 - i * t / 9) for i in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *SIZES], default="small")
    parser.add_argument("--input-size", type=int, default=252, help="pixels of the shorter side, a multiple of 14")
    parser.add_argument("--frames", type=int, default=40, help="of each episode")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=2, default=[256, 256], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU")
    return parser


def _differences(depths: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
    """The largest difference of each contender's depth from ours, as a share of the range of its episode."""
    return {
        name: max(
            float(np.abs(ours - theirs).max() / np.ptp(theirs))
            for ours, theirs in zip(depths["fathom"], found, strict=True)
        )
        for name, found in depths.items()
        if name != "fathom"
    }


def _print(result: Mapping[str, Any], rounds: Rounds) -> None:
    title = (
        f"{result['episodes']} × {result['frames']} frames, {result['size']} at {result['input_size']}, "
        f"{result['device']}"
    )
    table = Table("procedure", "seconds", "frames/s", "times as long as fathom", "bar", title=title)
    for name, seconds in result["seconds"].items():
        ratio = rounds.ratio(name, "fathom")
        bar = f"≥ {BAR}: {verdict(ratio, BAR)}" if name == PEER and result["frames"] == 40 else ""
        spread = "{:.2f} ({:.2f}–{:.2f})".format(*ratio)
        table.add_row(name, f"{seconds:.2f}", f"{result['frames_per_s'][name]:.1f}", spread, bar)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
