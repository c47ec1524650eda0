"""How many samples a second the data loader delivers: 128×128 colour, depth and a window of actions, in random order.

    python benchmarks/loader.py [--workers 2] [--episodes 40] [--frames 100] [--step-ms 370]

The last line is the share of a training's time that it would wait for data, at `--step-ms` a step of 64 samples (370 is
the quickstart's on two CPU cores; on a GPU give its own). Meanwhile the main process sleeps, so that the workers have
the CPU's cores to themselves, as they have beside a GPU.

It writes a dataset of its own (moving boxes before a textured wall, with their true depth) into a temporary folder,
through the same writer as everything else, and prints one line per way of reading it.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import Feature
from fathom.data.loader import Loader, ShuffledBatches
from fathom.data.memory import MemoryDataset
from fathom.data.staging import Frames
from fathom.data.writer import DatasetWriter

SIZE, BATCH, BAR = 128, 64, 1000
BAR_WAIT = 0.05
FEATURES = {
    "observation.images.main": Feature.rgb(SIZE, SIZE),
    "observation.images.main_depth": Feature.depth(SIZE, SIZE),
    "observation.state": Feature.vector(4),
    "action": Feature.vector(4),
}


def scene(frames: int, seed: int) -> Frames:
    """Boxes that move before a wall; sensor noise in colour, none in depth."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    wall = 110 + 40 * np.sin(x / 9 + y / 23) + random.normal(0, 4, (SIZE, SIZE))
    colour = np.repeat(wall[None, :, :, None] * random.uniform(0.6, 1.2, 3), frames, axis=0)
    depth = np.repeat((2.0 + 0.006 * (SIZE - y))[None].astype(np.float32), frames, axis=0)
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


def write(root: Path, episodes: int, frames: int) -> float:
    """Writes the dataset and returns frames per second (colour and depth, one process)."""
    writer = DatasetWriter(root, FEATURES, fps=20, robot_type="benchmark")
    scenes = [scene(frames, seed) for seed in range(4)]
    begin = time.perf_counter()
    for number in range(episodes):
        writer.stage_episode(number, scenes[number % len(scenes)], "push the box")
    writer.finish()
    return episodes * frames / (time.perf_counter() - begin)


def measure(batches: Iterator[Batch], seconds: float) -> float:
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
    parser.add_argument("--step-ms", type=float, default=370.0)
    options = parser.parse_args()

    def show(what: str, rate: float, note: str = "") -> None:
        print(f"{what:<52}{rate:>9.0f} samples/s  {note}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        rate = write(root, options.episodes, options.frames)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        show("write, one process", rate, f"{size / options.episodes / options.frames / 1000:.1f} kB a frame")
        dataset = open_dataset(root, depth=True, horizon=4)
        for workers in (0, options.workers):
            used = time.process_time()
            rate = measure(iter(Loader(dataset, BATCH, seed=0, workers=workers)), seconds := 6.0)
            if workers:
                note = f"bar {BAR}: {'met' if rate >= BAR else 'MISSED'}"
            else:  # on a machine shared with others this says more than the rate
                note = f"{(time.process_time() - used) / (rate * seconds + 8 * BATCH) * 1000:.2f} ms of one core each"
            show(f"random order, {workers} workers", rate, note)
        for image_size in (None, 64):
            batches, decoding = from_memory(dataset, image_size)
            show(f"decode into memory, {image_size or SIZE}²", decoding)
            show(f"random order from memory, {image_size or SIZE}²", measure(batches, 2.0))
        stream = iter(Loader(dataset, BATCH, seed=0, workers=options.workers))
        share = wait_share(stream, options.step_ms / 1000, steps=20)
        told = f"bar {BAR_WAIT:.0%}: {'met' if share < BAR_WAIT else 'MISSED'}"
        print(f"waiting for data at {options.step_ms:g} ms a step{'':<17}{share:>9.1%}          {told}", flush=True)


if __name__ == "__main__":
    main()
