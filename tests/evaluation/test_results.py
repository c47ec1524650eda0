"""The result file."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fathom.errors import UserError
from fathom.evaluation.results import EpisodeResult, Result, success_table, versions


@pytest.fixture
def result() -> Result:
    episodes = [EpisodeResult("open", 10_000 + i, i, i < 3, 20 + i, 0.5) for i in range(4)]
    episodes += [EpisodeResult("close", 10_000, 0, False, 3, 0.1, "ValueError: broke")]
    return Result("ours", "metaworld", {"episodes": 4}, versions(), tuple(episodes), "0123abcd", ("main", "wrist"))


def test_it_has_the_contracts_shape_and_comes_back(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    result.save(path)
    written = json.loads(path.read_text())
    contract = ["policy", "suite", "protocol", "versions", "episodes", "summary"]
    assert [name for name in written if name in contract] == contract
    assert list(written["episodes"][0]) == ["task", "seed", "init_state", "success", "steps", "wall_s", "error"]
    assert written["summary"]["open"] | {"low": 0, "high": 0} == {
        "n": 4,
        "successes": 3,
        "rate": 0.75,
        "low": 0,
        "high": 0,
    }
    assert written["summary"]["overall"]["n"] == 5 and written["summary"]["overall"]["successes"] == 3
    assert Result.load(path) == result


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"steps": 20', '"steps": "20"', "steps is '20'"),
        ('"success": true', '"success": 1', "success is 1"),
        ('"init_state"', '"start"', "an episode has the fields task, seed, init_state"),
        ('"successes": 3', '"successes": 4', "the summary does not follow"),
        ('"versions"', '"version"', "'versions'"),
        ("{", "", "not a result file"),
    ],
)
def test_damage_is_told(result: Result, tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "results.json"
    result.save(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=told):
        Result.load(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no result file"):
        Result.load(tmp_path / "results.json")


def test_policies_stand_side_by_side_in_the_table(result: Result) -> None:
    other = Result("expert", "metaworld", {}, {}, result.episodes[:4])
    console = Console(width=100, file=StringIO())
    console.print(success_table([result, other]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "75 %  (3/4, 30-95)" in text and "60 %  (3/5, 23-88)" in text
    assert text.index("│ open") < text.index("│ close") < text.index("│ overall")


@pytest.mark.parametrize(("version", "told"), [("stand-ins for some visuals", True), ("official", False)])
def test_stand_ins_are_told_beside_the_numbers(result: Result, version: str, told: bool) -> None:
    console = Console(width=100, file=StringIO())
    console.print(success_table([replace(result, versions={"mujoco": "3.3.0", "libero-assets": version})]))
    assert isinstance(console.file, StringIO)
    assert ("libero-assets: stand-ins for some visuals" in " ".join(console.file.getvalue().split())) == told
