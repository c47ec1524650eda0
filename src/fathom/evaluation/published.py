"""What the papers print: their success rates, to stand beside ours.

Sources: QDepth-VLA, arXiv 2510.14836, section 4, for the tables; DeepVision-VLA, arXiv 2603.15618, for its ablations.
Rates are in percent, as printed; neither paper gives intervals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from fathom.evaluation.results import OVERALL, Result

SOURCE = "arXiv 2510.14836"
QDEPTH, OPEN_PI0, PI0 = "QDepth-VLA", "open π0", "π0"


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper.

    Attributes:
        number: in the paper.
        title: what was measured.
        columns: over the numbers of each row.
        rows: of each method, by its name; ``None`` where the paper has no number.
        average: as printed for each row. (Those of CoT-VLA, and of other authors in
            Table 3, are not the means of its columns.)
    """

    number: int
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    average: Mapping[str, float]

    @property
    def source(self) -> str:
        """Where it stands."""
        return f"{SOURCE}, Table {self.number}"

    def column(self, name: str) -> dict[str, float]:
        """The numbers of each method that has one in this column."""
        place = self.columns.index(name)
        return {method: value for method, row in self.rows.items() if (value := row[place]) is not None}


LIBERO_SINGLE_VIEW = PublishedTable(
    2,
    "LIBERO, one view, 50 rollouts per task",
    ("libero_spatial", "libero_object", "libero_goal", "libero_10"),
    {
        "OpenVLA": (84.7, 88.4, 79.2, 53.7),
        "CoT-VLA-7B": (87.5, 91.6, 87.6, 69.0),
        OPEN_PI0: (77.2, 84.0, 83.6, 66.0),
        "SpatialVLA": (88.2, 89.9, 78.6, 55.5),
        "3D-CAVLA": (86.1, 94.7, 82.9, 66.8),
        QDEPTH: (86.0, 88.8, 94.0, 72.6),
    },
    {"OpenVLA": 76.5, "CoT-VLA-7B": 81.1, OPEN_PI0: 77.7, "SpatialVLA": 78.1, "3D-CAVLA": 82.6, QDEPTH: 85.4},
)

LIBERO_MULTI_VIEW = PublishedTable(
    2,
    "LIBERO, several views, 50 rollouts per task",
    LIBERO_SINGLE_VIEW.columns,
    {
        "Diffusion Policy": (78.3, 92.5, 68.3, 50.5),
        "Octo": (78.9, 85.7, 84.6, 51.1),
        "π0-FAST": (96.4, 96.8, 88.6, 60.2),
        PI0: (96.8, 98.8, 95.8, 85.2),
        "UniVLA": (96.5, 96.8, 95.6, 92.0),
        "GeoVLA": (98.4, 99.0, 96.6, 96.6),
        "3D-CAVLA": (98.2, 99.8, 98.2, 96.1),
        "4D-VLA": (88.9, 95.2, 90.9, 79.1),
        "DreamVLA": (97.5, 94.0, 89.5, 89.5),
        QDEPTH: (97.6, 96.6, 95.2, 90.0),
    },
    {
        "Diffusion Policy": 72.4, "Octo": 75.1, "π0-FAST": 85.5, PI0: 94.2, "UniVLA": 95.2, "GeoVLA": 97.7,
        "3D-CAVLA": 98.1, "4D-VLA": 88.6, "DreamVLA": 92.6, QDEPTH: 94.9,
    },
)  # fmt: skip

GOOGLE_ROBOT = PublishedTable(
    3,
    "SIMPLER, Google Robot, visual matching",
    ("pick coke can", "move near", "open/close drawer", "open top drawer and put apple in"),
    {
        "RT-2-X": (78.7, 71.9, 25.0, None),
        "Octo-Base": (17.0, 4.2, 22.7, None),
        "OpenVLA": (16.3, 46.2, 35.6, None),
        "RoboVLM": (77.3, 61.7, 43.5, None),
        "SpatialVLA": (86.0, 77.9, 57.4, None),
        OPEN_PI0: (97.5, 87.1, 68.0, 32.9),
        QDEPTH: (98.3, 81.4, 58.0, 62.6),
    },
    {
        "RT-2-X": 60.7, "Octo-Base": 16.8, "OpenVLA": 27.7, "RoboVLM": 63.4, "SpatialVLA": 75.1, OPEN_PI0: 71.4,
        QDEPTH: 75.1,
    },
)  # fmt: skip

WIDOWX = PublishedTable(
    4,
    "SIMPLER, WidowX, visual matching",
    ("carrot on plate", "eggplant in basket", "spoon on towel", "stack block"),
    {
        "Octo-Base": (8.3, 43.1, 12.5, 0.0),
        "OpenVLA": (0.0, 4.1, 0.0, 0.0),
        "RoboVLM": (25.0, 58.3, 29.2, 12.5),
        "SpatialVLA": (25.0, 100.0, 16.7, 29.2),
        OPEN_PI0: (61.3, 89.6, 73.7, 15.8),
        QDEPTH: (57.5, 95.0, 82.0, 39.6),
    },
    {"Octo-Base": 16.0, "OpenVLA": 1.0, "RoboVLM": 31.3, "SpatialVLA": 42.7, OPEN_PI0: 60.0, QDEPTH: 68.5},
)

ABLATIONS = PublishedTable(
    6,
    "Ablations on SIMPLER, WidowX",
    WIDOWX.columns,
    {
        "full": (57.5, 95.0, 82.0, 39.6),
        "depth_weight=0": (47.9, 82.5, 89.2, 42.9),
        "depth=none": (61.3, 89.6, 73.7, 15.8),
        "target=pixels": (54.6, 80.4, 82.0, 41.3),
        "visibility=dreamvla": (41.7, 89.6, 78.8, 42.0),
    },
    {"full": 68.5, "depth_weight=0": 65.6, "depth=none": 60.0, "target=pixels": 64.6, "visibility=dreamvla": 63.0},
)
"""In the paper's words: full, w/o Depth Loss, w/o Depth Expert, w/o Pixel Prediction, w/o Hybrid Attn."""

DEEPVISION_ABLATIONS = {
    "full": 88.0,
    "expert=none": 65.5,
    "fusion=aligned": 67.0,
    "fusion=early": 73.0,
    "which=first": 61.5,
    "which=uniform": 85.0,
    "encoder=siglip": 77.0,
    "guide=cls": 65.5,
    "guide=instruction": 84.0,
    "first_layer=4+last_layer=4": 85.0,
    "first_layer=8+last_layer=8": 69.0,
    "first_layer=12+last_layer=12": 82.5,
    "first_layer=16+last_layer=16": 87.5,
}
"""DeepVision-VLA's (arXiv 2603.15618) success on RLBench, by the fields that differ from its full policy."""

_WORDS = {
    "carrot on plate": "carrot",
    "eggplant in basket": "eggplant",
    "spoon on towel": "spoon",
    "stack block": "stack",
    "pick coke can": "coke",
    "move near": "near",
    "open top drawer and put apple in": "place",
    "open/close drawer": "drawer",
}
"""What the tasks' names have of the paper's columns."""


_DECISIVE = ("episodes", "quality", "image_size", "perturbation", "options")
"""Fields of the protocol that tell how far the numbers can be compared."""


def beside(result: Result) -> Table | None:
    """A result beside what the paper prints for the same benchmark, or ``None`` where it prints nothing.

    A row per column of the paper that was tried, with our rate, its interval and n; then the paper's own policy and its
    baseline, and below how ours was measured. LIBERO's tables have one number for each suite, SIMPLER's one for each
    task.
    """
    found = _table_of(result)
    if found is None:
        return None
    summary = result.summary
    baseline = OPEN_PI0 if OPEN_PI0 in found.rows else PI0
    table = Table("", "here", f"{QDEPTH}, paper", f"{baseline}, paper", title=f"Beside {found.source}: {found.title}")
    for column in found.columns:
        paper = found.column(column)
        for name in _tried_as(column, result):
            label = column if name == OVERALL else name
            table.add_row(label, _rate(summary[name]), f"{paper[QDEPTH]:.1f} %", f"{paper[baseline]:.1f} %")
    if found in (WIDOWX, GOOGLE_ROBOT) and all(_tried_as(column, result) for column in found.columns):
        table.add_section()
        averages = (f"{found.average[method]:.1f} %" for method in (QDEPTH, baseline))
        columns = [[summary[name]["rate"] for name in _tried_as(column, result)] for column in found.columns]
        table.add_row("average", f"{100 * fmean(map(fmean, columns)):.1f} %", *averages)
    protocol = ", ".join(f"{name} {result.protocol[name]}" for name in _DECISIVE if result.protocol.get(name))
    table.caption = f"here: {protocol}" if protocol else None
    return table if table.row_count else None


def ablation_of(changes: Mapping[str, str], kind: str = "qdepth_vla") -> float | None:
    """The paper's average for a variant, by the fields of the recipe that it changes and their values.

    Only what the paper tried has one; no change at all is its full policy.

    Args:
        kind: of the policy, which says whose paper.
    """
    averages = DEEPVISION_ABLATIONS if kind == "deepvision_vla" else ABLATIONS.average
    made = {path.rsplit(".", 1)[-1]: _plain(value) for path, value in changes.items()}
    if made.get("guide") == "cls":
        made.pop("first_layer", None)  # it is then counted in the vision expert, so it has to differ from the paper's 4
    wanted = {f"{name}={value}" for name, value in made.items()} or {"full"}
    return next((rate for name, rate in averages.items() if set(name.split("+")) == wanted), None)


def _plain(value: str) -> str:
    """``0.0`` is ``0``, ``None`` is ``none``."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value.lower()


def _table_of(result: Result) -> PublishedTable | None:
    if result.suite in LIBERO_SINGLE_VIEW.columns:
        return LIBERO_MULTI_VIEW if len(result.cameras) > 1 else LIBERO_SINGLE_VIEW
    names = " ".join((result.suite, *(episode.task for episode in result.episodes)))
    if "widowx" in names:
        return WIDOWX
    return GOOGLE_ROBOT if "google" in names else None


def _tried_as(column: str, result: Result) -> list[str]:
    """The names in the result's summary that a column of the paper is about."""
    if column == result.suite:
        return [OVERALL]
    tasks = dict.fromkeys(episode.task for episode in result.episodes)
    return [task for task in tasks if next((c for c, word in _WORDS.items() if word in task), None) == column]


def _rate(count: Mapping[str, float]) -> str:
    interval = f"{100 * count['low']:.1f}-{100 * count['high']:.1f}"
    return f"{100 * count['rate']:.1f} % ({interval}, n = {count['n']:.0f})"
