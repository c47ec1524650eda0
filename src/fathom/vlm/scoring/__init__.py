"""Answers to spatial questions, scored as the public benchmarks do (SPEC §2).

>>> score_file(Path("predictions.jsonl"), "spatialbench", "official").as_json()
{'per_type': {'positional': 61.8, …}, 'overall': 55.2, 'n': 174}
"""

from fathom.vlm.scoring.benchmarks import BENCHMARKS, BenchmarkName, score_file
from fathom.vlm.scoring.score import Failure, Mode, Score

__all__ = ["BENCHMARKS", "BenchmarkName", "Failure", "Mode", "Score", "score_file"]
