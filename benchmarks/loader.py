"""How many samples a second the data loader delivers: colour, depth and a window of actions, in random order.

    python benchmarks/loader.py [--size 128] [--workers 2] [--episodes 40] [--frames 100] [--step-ms 370]

The last line is the share of a training's time that it would wait for data, at `--step-ms` a step of 64 samples (370 is
the quickstart's on two CPU cores; on a GPU give its own). Meanwhile the main process sleeps, so that the workers have
the CPU's cores to themselves, as they have beside a GPU.

It writes a dataset of its own (moving boxes before a textured wall, with their true depth) into a temporary folder,
through the same writer as everything else, and prints one line per way of reading it. `--size` is the side of its
pictures: 128 as the quickstart's, 224 or 256 as those of Bridge, LIBERO and Fractal, which the full-size recipes read.

lerobot's own reader is beside ours where lerobot can be imported, which Fathom does not need: in an environment of its
own, `pip install lerobot`, then Fathom. It reads the same files, with torch's DataLoader around it and the same number
of workers. Versions that know no depth give a picture of 8 bits in its place, which is less work.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sized
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import Feature
from fathom.data.loader import Loader, ShuffledBatches
from fathom.data.memory import MemoryDataset
from fathom.data.staging import Frames
from fathom.data.writer import DatasetWriter

SIZES, BATCH, HORIZON, FPS = (128, 224, 256), 64, 4, 20
BAR, BAR_WAIT = 1000, 0.05  # samples a second at 128²; share of waiting


def features(size: int) -> dict[str, Feature]:
    """Of the dataset that is read."""
    return {
        "observation.images.main": Feature.rgb(size, size),
        "observation.images.main_depth": Feature.depth(size, size),
        "observation.state": Feature.vector(4),
        "action": Feature.vector(4),
    }


def scene(frames: int, seed: int, size: int) -> Frames:
    """Boxes that move before a wall; sensor noise in colour, none in depth."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] * (128 / size)  # the same scene at every size
    wall = 110 + 40 * np.sin(x / 9 + y / 23) + random.normal(0, 4, (size, size))
    colour = np.repeat(wall[None, :, :, None] * random.uniform(0.6, 1.2, 3), frames, axis=0)
    depth = np.repeat((2.0 + 0.006 * (128 - y))[None].astype(np.float32), frames, axis=0)
    for _ in range(5):
        start, end, half = random.uniform(20, 108, 2), random.uniform(20, 108, 2), random.uniform(6, 16, 2)
        near, tint = random.uniform(0.5, 1.5), random.uniform(30, 220, 3)
        for t in range(frames):
            cy, cx = start + (end - start) * t / frames
            box = (abs(y - cy) < half[0]) & (abs(x - cx) < half[1])
            colour[t][box] = tint
            depth[t][box] = near + 0.002 * x[box]
    colour += random.normal(0, 1.5, colour.shape)
    return {
        "observation.images.main": colour.clip(0, 255).astype(np.uint8),
        "observation.images.main_depth": depth,
        "observation.state": random.normal(size=(frames, 4)).astype(np.float32),
        "action": random.normal(size=(frames, 4)).astype(np.float32),
    }


def write(root: Path, episodes: int, frames: int, size: int) -> float:
    """Writes the dataset and returns frames per second (colour and depth, one process)."""
    writer = DatasetWriter(root, features(size), fps=FPS, robot_type="benchmark")
    scenes = [scene(frames, seed, size) for seed in range(4)]
    begin = time.perf_counter()
    for number in range(episodes):
        writer.stage_episode(number, scenes[number % len(scenes)], "push the box")
    writer.finish()
    return episodes * frames / (time.perf_counter() - begin)


def lerobots(root: Path, workers: int) -> Iterator[Tensor]:
    """The same samples in random order by lerobot's reader; of each batch what stands for it is its actions.

    Raises:
        ImportError: lerobot is not here, or lacks something.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset as Theirs

    dataset = Theirs("benchmark", root, delta_timestamps={"action": [step / FPS for step in range(HORIZON)]})
    order = RandomSampler(dataset, num_samples=10**9)
    loader = DataLoader(dataset, BATCH, sampler=order, num_workers=workers, prefetch_factor=4 if workers else None)
    return (batch["action"] for batch in loader)


def measure(batches: Iterator[Sized], seconds: float) -> float:
    """Samples a second."""
    for _ in islice(batches, 8):  # workers start and open their files
        pass
    begin = time.perf_counter()
    samples = 0
    while time.perf_counter() - begin < seconds:
        samples += len(next(batches))
    return samples / (time.perf_counter() - begin)


def wait_share(batches: Iterator[Batch], step_s: float, steps: int) -> float:
    """The share of the time that steps of this length wait for their batches."""
    next(batches)  # workers start and open their files
    waited = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        time.sleep(step_s)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    return waited / (time.perf_counter() - begin)


def cost(batches: Iterator[Sized], seconds: float = 6.0) -> tuple[float, float]:
    """Samples a second, and how many milliseconds of one core each takes in this process."""
    used = time.process_time()
    rate = measure(batches, seconds)
    return rate, (time.process_time() - used) / (rate * seconds + 8 * BATCH) * 1000


def from_memory(dataset: LeRobotDataset, image_size: int | None) -> tuple[Iterator[Batch], float]:
    begin = time.perf_counter()
    memory = MemoryDataset.load(dataset, image_size=image_size)
    took = time.perf_counter() - begin
    sampler = ShuffledBatches(len(memory), BATCH, seed=0)
    return (memory.batch(chosen) for chosen in sampler), len(memory) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("workers", 2), ("episodes", 40), ("frames", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", type=int, choices=SIZES, default=SIZES[0])
    parser.add_argument("--step-ms", type=float, default=370.0)
    options = parser.parse_args()

    def show(what: str, rate: float, note: str = "") -> None:
        print(f"{what:<52}{rate:>9.0f} samples/s  {note}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        rate = write(root, options.episodes, options.frames, options.size)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        show("write, one process", rate, f"{size / options.episodes / options.frames / 1000:.1f} kB a frame")
        dataset = open_dataset(root, depth=True, horizon=HORIZON)
        for workers in (0, options.workers):
            ours, own_ms = cost(iter(Loader(dataset, BATCH, seed=0, workers=workers)))
            # On a machine shared with others the time of one core says more than the rate.
            bar = f"bar {BAR}: {'met' if ours >= BAR else 'MISSED'}" if options.size == SIZES[0] else ""
            show(f"random order, {workers} workers", ours, bar if workers else f"{own_ms:.2f} ms of one core each")
            try:
                theirs, their_ms = cost(lerobots(root, workers))
            except ImportError as error:
                print(f"lerobot's reader was not measured: {error}; see the head of this file", flush=True)
                continue
            note = f"ours is {ours / theirs:.1f} times as fast"
            note += "" if workers else f"; {their_ms:.2f} ms of one core each"
            show(f"the same by lerobot {version('lerobot')}", theirs, note)
        for image_size in (None, 64):
            batches, decoding = from_memory(dataset, image_size)
            show(f"decode into memory, {image_size or options.size}²", decoding)
            show(f"random order from memory, {image_size or options.size}²", measure(batches, 2.0))
        stream = iter(Loader(dataset, BATCH, seed=0, workers=options.workers))
        share = wait_share(stream, options.step_ms / 1000, steps=20)
        told = f"bar {BAR_WAIT:.0%}: {'met' if share < BAR_WAIT else 'MISSED'}"
        print(f"waiting for data at {options.step_ms:g} ms a step{'':<17}{share:>9.1%}          {told}", flush=True)


if __name__ == "__main__":
    main()
