"""``fathom vlm pairs``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class VlmPairs:
    """Give pictures depth: RGB-D pairs to align a depth encoder with."""

    source: tyro.conf.Positional[str]
    """A folder of pictures, a LeRobot dataset, or a data set of the datasets library (folder or hub id)."""

    out: Path
    """The folder of pairs; an interrupted run continues there."""

    estimator: str = "transformers"
    """What gives the depth: `transformers`, `video-depth-anything`, `metric-video-depth-anything`, or `recorded`."""

    weights: str | None = None
    """A file, folder or hub id, such as depth-anything/Depth-Anything-V2-Small-hf."""

    size: int | None = None
    """Side to which pictures are resized for the estimator; by default its own."""

    camera: str = "main"
    """Of a LeRobot dataset."""

    every: int = 10
    """Of a LeRobot dataset: one of so many frames."""

    column: str | None = None
    """Of a data set of the datasets library: the column of pictures, where there are several."""

    split: str = "train"
    """Of a data set of the datasets library."""

    def run(self) -> int:
        from fathom.training.device import pick_device
        from fathom.vlm.pairs import PairMaking, make_pairs

        making = PairMaking(self.estimator, self.weights, self.size, self.camera, self.every, self.column, self.split)
        made = make_pairs(self.source, making, self.out, device=str(pick_device()))
        print(f"{made.pairs} pairs in {self.out}")
        for name, reason in made.skipped.items():
            print(f"{name} skipped: {reason}")
        return 1 if made.skipped else 0
