"""Closed-loop evaluation: protocols, result files, statistics.

>>> protocol = Protocol("metaworld", ("faucet-open", "door-open"))
>>> evaluate(policy, protocol, "runs/eval", name="qdepth_vla")
"""

from fathom.evaluation.evaluate import evaluate
from fathom.evaluation.protocol import Protocol
from fathom.evaluation.results import EpisodeResult, Result, success_table
from fathom.evaluation.statistics import Rate, difference, wilson

__all__ = ["EpisodeResult", "Protocol", "Rate", "Result", "difference", "evaluate", "success_table", "wilson"]
