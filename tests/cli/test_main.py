"""What the command line does with good input, bad input, and interruptions."""

import errno
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from fathom.cli import main as cli
from fathom.cli.verb import Settings, with_settings
from fathom.errors import UserError

Install = Callable[[Callable[[], int | None]], None]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a verb ``act`` into the command line that does what the test says."""

    def install(action: Callable[[], int | None]) -> None:
        @dataclass(frozen=True)
        class Act:
            """Do what the test says."""

            batch_size: int = 1

            def run(self) -> int | None:
                return action()

        monkeypatch.setitem(cli.VERBS, "act", Act)

    return install


def fails(error: BaseException) -> Callable[[], int | None]:
    def action() -> int | None:
        raise error

    return action


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_verb_decides_between_done_and_failed(verb: Install, returned: int | None, code: int) -> None:
    verb(lambda: returned)
    assert cli.main(["act"]) == code


def test_a_users_mistake_is_one_sentence_and_code_2(verb: Install, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "runs/[a]/config.json: 'camera' is 'left'; this dataset has 'main' and 'wrist'. " * 3
    verb(fails(UserError(sentence)))
    assert cli.main(["act"]) == 2
    out, err = capsys.readouterr()
    assert err == f"fathom: {sentence}\n"  # not wrapped, and brackets are no markup
    assert out == ""


def test_an_interruption_says_how_to_go_on(verb: Install, capsys: pytest.CaptureFixture[str]) -> None:
    verb(fails(KeyboardInterrupt()))
    assert cli.main(["act"]) == 130
    assert capsys.readouterr().err == "fathom: interrupted; run the same command again to continue\n"


def test_a_full_disk_is_the_users_to_mend(verb: Install, capsys: pytest.CaptureFixture[str]) -> None:
    verb(fails(OSError(errno.ENOSPC, "No space left on device", "runs/a.parquet")))
    assert cli.main(["act"]) == 2
    assert "the disk is full (runs/a.parquet): free some space" in capsys.readouterr().err


def test_a_full_disk_is_known_behind_another_error(verb: Install) -> None:
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    verb(fails(wrapped))
    assert cli.main(["act"]) == 2


def test_our_own_mistakes_keep_their_traceback(verb: Install) -> None:
    verb(fails(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["act"])


@pytest.mark.parametrize(
    ("arguments", "near"),
    [(["act", "--batchsize", "2"], "--batch-size"), (["act", "--batch-size", "many"], "--batch-size")],
)
def test_an_option_that_is_wrong_names_the_right_one(
    verb: Install, capsys: pytest.CaptureFixture[str], arguments: list[str], near: str
) -> None:
    verb(lambda: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert near in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["docter"], "'fathom' knows no 'docter': did you mean 'doctor'?"),
        (["verify", "lerobt"], "'fathom verify' knows no 'lerobt': did you mean 'lerobot'?"),
        (["fly"], "'fathom' knows no 'fly': it is one of"),
    ],
)
def test_an_unknown_verb_names_a_near_one(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert hint in capsys.readouterr().err


def test_a_group_without_a_verb_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify"])
    assert stopped.value.code == 2
    assert "lerobot" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_verb_on_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert f"• {name}" in out
        sentence = verb.help if isinstance(verb, cli.Group) else verb.__doc__
        assert sentence and "\n" not in sentence, f"the help of '{name}' is one line"


@dataclass(frozen=True)
class Optimiser:
    lr: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    steps: int = 10
    optimiser: Optimiser = field(default_factory=Optimiser)


@dataclass(frozen=True)
class Fit:
    """Fit a recipe."""

    recipe: str = "small"
    settings: Settings = ()

    def run(self) -> None:
        print(with_settings(Recipe(steps=20), self.settings, "fathom fit"))


def test_a_verb_may_take_the_fields_of_its_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.VERBS, "fit", Fit)
    assert cli.main(["fit", "--optimiser.lr", "0.5", "--recipe", "small"]) == 0
    assert capsys.readouterr().out.strip() == repr(Recipe(steps=20, optimiser=Optimiser(lr=0.5)))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", "--recipe", "small", "--optimiser.rl", "0.5"])
    assert stopped.value.code == 2
    assert "--optimiser.lr" in capsys.readouterr().err


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_verify_ends_with_its_verdict(
    ok: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = {"ok": ok, "max": {"action": 0.0}, "tolerance": {"action": 0.0}}
    asked = []

    def verify_lerobot(dataset: Path, expected: Path) -> dict[str, object]:
        asked.append((dataset, expected))
        return verdict

    module = ModuleType("fathom.data.verify")
    module.__dict__["verify_lerobot"] = verify_lerobot
    monkeypatch.setitem(sys.modules, "fathom.data.verify", module)
    assert cli.main(["verify", "lerobot", "some/dataset", "--expected", "some.npz"]) == code
    assert asked == [(Path("some/dataset"), Path("some.npz"))]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == verdict


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from fathom.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    for package in ("torch", "transformers", "numpy", "av", "pyarrow", "mujoco", "matplotlib"):
        assert f"'{package}'" not in loaded


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fathom", "docter"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "fathom: 'fathom' knows no 'docter': did you mean 'doctor'?\n"


@pytest.mark.parametrize("words", ["train d --nonsense 3 --out", "train d --out b --training.micro-batch x"])
def test_of_several_processes_the_first_says_what_is_wrong_with_the_options(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stop:
            cli.main(words.split())
        assert stop.value.code == 2
        said.append(capsys.readouterr().err)
    assert said[0] and not said[1]


class TestHelpOfARecipe:
    @staticmethod
    def of(arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("COLUMNS", "110")
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments.split())
        assert stop.value.code == 0
        return capsys.readouterr().out

    def test_every_field_is_explained(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the variants also the source; and nothing need be given beside the recipe."""
        out = self.of("train --recipe qdepth_libero --help", capsys, monkeypatch)
        lines = [line.strip(" │") for line in out.splitlines()]
        options = [line.split()[0] for line in lines if line.startswith("--")]
        # An option of a recipe stands on a line of its own, and the next one explains it.
        silent = [line for line, after in itertools.pairwise(lines) if line[:2] == "--" and after[:8] == "(default"]
        assert [line for line in silent if len(line.split("  ")) == 1] == []
        assert {
            "--out", "--init", "--depth-weight", "--depth-weight-decay", "--freeze", "--lora.rank", "--policy.horizon",
            "--policy.cameras", "--policy.conventions", "--policy.depth.target", "--policy.depth.grid",
            "--policy.depth.temperature", "--policy.depth.visibility", "--policy.depth.future", "--training.epochs",
        } <= set(options)  # fmt: skip
        assert "(paper, section 3.4.3: 0.01)" in out and "Table 6" in out and "open-pi-zero" in out
        assert "(default: 50" in out  # the recipe's own epochs

    def test_the_recipe_is_the_one_that_is_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "(default: 16)" in self.of("train data --recipe=qdepth_piper -h", capsys, monkeypatch)
        assert "--policy.expert.pruning.keep" in self.of("ablate deepvision_quickstart -h", capsys, monkeypatch)
        assert "--policy.flow-steps" in self.of("ablate -h", capsys, monkeypatch)

    def test_a_wrong_recipe_is_told_there_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["train", "--recipe", "nope", "--help"]) == 2
        assert "there is no recipe called 'nope'" in capsys.readouterr().err


class TestPartsThatMayBeLeftOut:
    def test_left_out_and_put_in(self) -> None:
        from fathom.recipes import policy_recipe

        recipe = policy_recipe("quickstart")
        assert with_settings(recipe, ("--policy.depth", "none"), "t").policy.depth is None
        assert with_settings(recipe, ("--policy.depth=None", "--policy.horizon", "2"), "t").policy.horizon == 2
        assert with_settings(recipe, ("--policy.depth.future", "3"), "t").policy.depth.future == 3
        assert recipe.lora is None
        assert with_settings(recipe, ("--lora.rank", "8"), "t").lora.rank == 8
        assert with_settings(recipe, (), "t") == recipe


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("--policy.vision.heads 5", "vision.width 128 must be a multiple of vision.heads 5"),
        ("--policy.expert-width 15", "head_dim 32 and expert_width 15 must be even"),
        ("--policy.flow-draws 0", "flow_draws is 0: it must be at least 1"),
        ("--policy.layers 0", "layers is 0: it must be at least 1"),
        ("--lora.rank 0", "lora.rank is 0"),
        ("--policy.depth.temperature -1", "depth.temperature is -1.0: it must be above 0, or auto"),
        ("--policy.softcap 50 --policy.attention sdpa", "attention 'sdpa' knows none"),
        ("--training.steps 5 --training.epochs 2", "both steps 5 and epochs 2 are given"),
    ],
)
def test_values_that_make_no_sense_together(
    settings: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fathom.recipes import policy_recipe

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        with_settings(policy_recipe("quickstart"), tuple(settings.split()), "fathom train")
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
