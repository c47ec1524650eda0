"""Success against strength: counts, intervals, and what may be compared."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.evaluation import Result
from fathom.report.generalisation import Generalisation, draw, write_generalisation
from fathom.simulation.perturbation import Perturbation

from .conftest import make_result

POLICIES = ("qdepth_vla", "pi0")


def save(folder: Path, policy: str, words: str | None, won: int, n: int = 20, **protocol: object) -> Path:
    """An evaluation's folder."""
    result: Result = make_result(policy, won, n=n)
    told = asdict(Perturbation.parse(words)) if words else None
    path = folder / f"{policy} {words} {won}"
    replace(result, protocol={"episodes": n, "perturbation": told, **protocol}).save(path / "results.json")
    return path


@pytest.fixture
def evaluations(tmp_path: Path) -> list[Path]:
    success = {None: (16, 14), "lighting=0.5": (14, 9), "lighting=1": (12, 4), "camera=0.5": (8, 7)}
    return [
        save(tmp_path, policy, words, won)
        for words, counts in success.items()
        for policy, won in zip(POLICIES, counts, strict=True)
    ]


def test_a_curve_begins_with_the_scene_as_it_is(evaluations: list[Path]) -> None:
    found = Generalisation.read(evaluations)
    assert found.policies == list(POLICIES) and list(found.curves) == ["camera", "lighting"]
    curve = found.curves["lighting"]["pi0"]
    assert {strength: (count.successes, count.n) for strength, count in curve.items()} == {
        0.0: (14, 20),
        0.5: (9, 20),
        1.0: (4, 20),
    }
    assert sorted(found.curves["camera"]["qdepth_vla"]) == [0.0, 0.5]


def test_evaluations_under_one_perturbation_count_together_and_once(evaluations: list[Path], tmp_path: Path) -> None:
    more = save(tmp_path, "pi0", "lighting=1", 6)
    named_twice = [*evaluations, more, more / "results.json"]
    count = Generalisation.read(named_twice).curves["lighting"]["pi0"][1.0]
    assert (count.successes, count.n) == (10, 40)
    assert count.rate.low == pytest.approx(0.1419, abs=1e-4)  # Wilson's interval of 10 in 40, worked out by hand
    assert count.rate.high == pytest.approx(0.4019, abs=1e-4)


def test_the_figure_has_the_points_and_their_intervals(evaluations: list[Path]) -> None:
    figure = draw(Generalisation.read(evaluations))
    assert [axes.get_title() for axes in figure.axes] == ["Camera shift", "Lighting"]
    lines = {line.get_label(): line.lines for line in figure.axes[1].containers}
    assert set(lines) == {"QDepth-VLA", "π0, no depth"}
    points, _, (bars,) = lines["π0, no depth"]
    assert points.get_ydata() == pytest.approx([70, 45, 20])
    assert points.get_xdata() == pytest.approx([0, 0.5, 1], abs=0.01)
    # Wilson's intervals of 14, 9 and 4 in 20, worked out apart from this code
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx(pair, abs=0.1) for pair in ([48.1, 85.5], [25.8, 65.8], [8.1, 41.6])]


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!doctype html>")]
)
def test_its_name_says_what_is_written(evaluations: list[Path], tmp_path: Path, name: str, start: bytes) -> None:
    path = write_generalisation(evaluations, tmp_path / name)
    assert path.read_bytes().startswith(start)


def test_the_page_needs_nothing_beside_it(evaluations: list[Path], tmp_path: Path) -> None:
    nasty = save(tmp_path, "<script>x</script>", "lighting=1", 3)
    page = write_generalisation([*evaluations, nasty], tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1 and "<script>x" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert re.search(r"Lighting, 0.5.*?70 %.*?14/20.*?45 %.*?9/20", page, re.DOTALL)


def test_what_was_not_evaluated_alike_is_not_compared(evaluations: list[Path], tmp_path: Path) -> None:
    other = save(tmp_path, "blind", "lighting=1", 1, execute=9)
    with pytest.raises(UserError, match=r"with execute 9 and .* with None"):
        Generalisation.read([*evaluations, other])
    result = Result.load(evaluations[0] / "results.json")
    replace(result, versions=result.versions | {"mujoco": "0.1"}).save(tmp_path / "old.json")
    with pytest.raises(UserError, match=r"with mujoco 0\.1 and .* with None"):
        Generalisation.read([*evaluations, tmp_path / "old.json"])


def test_trainings_of_several_seeds_count_together(evaluations: list[Path], tmp_path: Path) -> None:
    """Each has noise of its own."""
    other = save(tmp_path, "pi0", "lighting=1", 6, noise_seed=1)
    assert Generalisation.read([*evaluations, other]).curves["lighting"]["pi0"][1.0].n == 40


def test_bad_input_is_told(evaluations: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no result file"):
        Generalisation.read([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="none of these evaluations is perturbed"):
        Generalisation.read(evaluations[:2])
    with pytest.raises(UserError, match="none of these evaluations is perturbed"):
        Generalisation.read([])
    with pytest.raises(UserError, match="must end in"):
        write_generalisation(evaluations, tmp_path / "figure.pdf")
    assert not (tmp_path / "figure.pdf").exists()
    path = evaluations[0] / "results.json"
    broken = json.loads(path.read_text())
    broken["protocol"]["perturbation"] = {"kind": "fog", "strength": 1}
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError, match="not a perturbation"):
        Generalisation.read(evaluations)
