"""``fathom annotate``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Annotate:
    """Add depth to a LeRobot dataset, or check the depth that it has."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset; its pictures are not touched."""

    estimator: str = "video-depth-anything"
    """What gives the depth: `video-depth-anything` or `metric-video-depth-anything`, `transformers`, or `recorded`."""

    weights: str | None = None
    """A file, folder or hub id; for `recorded`, the folder with what was recorded."""

    size: int | None = None
    """Side to which pictures are resized for the estimator; by default its own."""

    camera: str = "main"
    """Whose pictures are annotated."""

    name: str | None = None
    """Name of the new feature; by default the camera's with `_depth` behind it."""

    processes: int = 1
    """Workers that run side by side; the result does not depend on it."""

    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or the workers of a Ray cluster (RAY_ADDRESS)."""

    check: bool = False
    """Do not annotate: compare the feature with `--reference`."""

    reference: str = "main_depth"
    """For `--check`: depth of a sensor or a simulator, in metres."""

    sheet: Path | None = None
    """For `--check`: write the worst frames here, as a PNG."""

    def run(self) -> int:
        return self._check() if self.check else self._annotate()

    def _annotate(self) -> int:
        from fathom.annotation import Annotation, annotate
        from fathom.annotation.annotate import available_devices

        annotation = Annotation(self.estimator, self.weights, self.size, self.camera, self.name)
        done = annotate(
            self.dataset, annotation, processes=self.processes, engine=self.engine, devices=available_devices()
        )
        print(f"{done.episodes - len(done.skipped)} of {done.episodes} episodes have {annotation.feature}")
        return _listed(done.skipped)

    def _check(self) -> int:
        from fathom.annotation import check_depth

        name = self.name or f"{self.camera}_depth"
        check = check_depth(self.dataset, name, self.reference, camera=self.camera)
        for one in check.episodes:
            still = _or_none(one.flicker)
            print(f"episode {one.episode}: AbsRel {one.abs_rel:.4f}, δ1 {one.delta_1:.3f}, flicker {still}")
        if check.episodes:
            measures = ", ".join(f"{name} {_or_none(check.mean(name))}" for name in ("abs_rel", "delta_1", "flicker"))
            print(f"mean of {len(check.episodes)} episodes: {measures}")
        if self.sheet and check.worst:
            from fathom.files import write_file
            from fathom.report.contact_sheet import contact_sheet

            write_file(self.sheet, contact_sheet(check))
            print(f"the worst frames: {self.sheet}")
        return _listed(check.skipped)


def _or_none(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _listed(skipped: Mapping[int, str]) -> int:
    """Says which episodes were skipped and why; the exit code."""
    for episode, reason in skipped.items():
        print(f"episode {episode} skipped: {reason}")
    return 1 if skipped else 0
