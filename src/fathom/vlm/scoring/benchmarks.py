"""The benchmarks by name, and a file of answers scored by one of them."""

from pathlib import Path
from types import ModuleType
from typing import Literal

from fathom.vlm.scoring import depthlm, msmu, spatialbench, spatialrgpt
from fathom.vlm.scoring.lines import read_lines
from fathom.vlm.scoring.score import Mode, Score

BenchmarkName = Literal["msmu", "spatialbench", "depthlm", "spatialrgpt"]
BENCHMARKS: dict[str, ModuleType] = {
    "msmu": msmu,
    "spatialbench": spatialbench,
    "depthlm": depthlm,
    "spatialrgpt": spatialrgpt,
}


def score_file(path: Path, benchmark: BenchmarkName, mode: Mode) -> Score:
    """The score of a file of answers, one JSON object a line, one line a question, in the benchmark's order.

    The fields of a line are those that the benchmark's module names.

    Raises:
        UserError: the file, a line or a field is missing or wrong.
    """
    result: Score = BENCHMARKS[benchmark].score(read_lines(path), mode)
    return result
