"""Comparing models that answered the same spatial questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fathom.evaluation.statistics import Rate
from fathom.vlm.scoring import Score, score_file
from fathom.vlm.scoring.lines import read_lines

_RESAMPLES = 2000


@dataclass(frozen=True)
class Answers:
    """What one training answered, and what it is worth.

    Attributes:
        arm: the fusion.
        seed: of the training.
        share: of the training scenes that it learnt from.
        score: by MSMU's rules, judged without a language model.
        scenes: for each type, the scene that each of its questions is about.
        said: the lines of the file.
    """

    arm: str
    seed: int
    share: float
    score: Score
    scenes: Mapping[str, Sequence[str]]
    said: Sequence[Mapping[str, str]]

    @classmethod
    def read(cls, predictions: Path, arm: str, seed: int, share: float = 1.0) -> "Answers":
        """From a file of answers to questions that Fathom made, whose lines name their ``scene``."""
        said = [line.fields for line in read_lines(predictions)]
        score = score_file(predictions, "msmu", "fixed")
        scenes = {name: [line["scene"] for line in said if line["type"] == name] for name in score.trials}
        return cls(arm, seed, share, score, scenes, said)


@dataclass(frozen=True)
class Comparison:
    """One arm's trainings beside a baseline's.

    Attributes:
        per_type: percent right, with a 95 % interval, of all seeds together.
        overall: mean over the types.
        gain: relative to the baseline's overall score, 0.2 for a fifth more; ``None`` for the baseline itself.
    """

    arm: str
    share: float
    seeds: tuple[int, ...]
    per_type: Mapping[str, Rate]
    overall: Rate
    gain: Rate | None


def compare(answers: Sequence[Answers], baseline: str = "none") -> list[Comparison]:
    """Every arm at every share of the data, in order, each beside the baseline at the same share.

    Intervals come from drawing scenes again (a bootstrap over the test scenes, whose questions stay together); arms are
    drawn alike, so that what a hard scene costs all of them does not widen the interval of the gain. They do not count
    that other seeds would move the scores.
    """
    found = []
    for share in dict.fromkeys(one.share for one in answers):
        here = [one for one in answers if one.share == share]
        base = _Drawn.of([one for one in here if one.arm == baseline])
        for arm in dict.fromkeys(one.arm for one in here):
            own = [one for one in here if one.arm == arm]
            drawn = _Drawn.of(own)
            gain = None
            if arm != baseline and base is not None and drawn is not None and base.overall[0] > 0:
                gain = _rate(drawn.overall / np.maximum(base.overall, 1e-9) - 1)
            if drawn is not None:
                per_type = {name: _rate(100 * values) for name, values in drawn.types.items()}
                seeds = tuple(one.seed for one in own)
                found.append(Comparison(arm, share, seeds, per_type, _rate(100 * drawn.overall), gain))
    return found


@dataclass(frozen=True)
class _Drawn:
    """Scores of the scenes as they are, and behind them of scenes that were drawn again."""

    types: Mapping[str, Float[np.ndarray, "draws"]]

    @property
    def overall(self) -> Float[np.ndarray, "draws"]:
        return np.mean(list(self.types.values()), axis=0)

    @classmethod
    def of(cls, trainings: Sequence[Answers]) -> "_Drawn | None":
        if not trainings:
            return None
        first = trainings[0]
        scenes = sorted({scene for names in first.scenes.values() for scene in names})
        place = {scene: number for number, scene in enumerate(scenes)}
        rng = np.random.default_rng(0)
        weights = rng.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), _RESAMPLES)
        weights = np.concatenate([np.ones((1, len(scenes)), int), weights])
        types = {}
        for name, names in first.scenes.items():
            right = np.mean([np.array(one.score.trials[name], dtype=float) for one in trainings], axis=0)
            counted = weights[:, [place[scene] for scene in names]]
            types[name] = counted @ right / np.maximum(counted.sum(axis=1), 1)
        return cls(types)


def _rate(draws: Float[np.ndarray, "draws"]) -> Rate:
    low, high = np.percentile(draws[1:], [2.5, 97.5]).tolist()
    return Rate(float(draws[0]), low, high)
