"""The packaging's promises: pins for everything, an import that needs no heavy package, one way of importing."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fathom

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_every_requirement_has_a_pin_that_meets_it(line: str) -> None:
    requirement = Requirement(line)
    if requirement.name == PROJECT["name"]:  # an extra that includes another
        assert requirement.extras <= PROJECT["optional-dependencies"].keys()
        return
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_pins_hold_no_builds_and_no_places() -> None:
    assert len(pins()) > 50
    for name, version in pins().items():
        assert re.fullmatch(r"[\w.-]+", name) and re.fullmatch(r"[\d.]+", version), f"{name}=={version}"


def test_every_package_that_is_imported_is_required() -> None:
    required = {canonicalize_name(Requirement(line).name) for line in REQUIREMENTS}
    # What no extra can ask for, because it must be installed without its own requirements, or is on no registry.
    required |= {"hf-libero", "robosuite", "bddl", "simpler-env"}
    # Too large to be part of the development set-up.
    apart = {"wandb": ["wandb"], "rerun": ["rerun-sdk"]}
    apart |= {"mani_skill": ["mani-skill"], "sapien": ["mani-skill"]}
    homes = {**importlib.metadata.packages_distributions(), **apart, "simpler_env": ["simpler-env"]}
    for path in Path(fathom.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - {"fathom", *sys.stdlib_module_names}:
                found = {canonicalize_name(home) for home in homes.get(name, [])}
                assert found & required, f"{path.name} imports {name}, which pyproject.toml does not ask for"


def test_nothing_asks_for_torchvision() -> None:
    names = {canonicalize_name(name) for name in pins()} | {Requirement(line).name for line in REQUIREMENTS}
    assert not names & {"torchvision", "timm", "lerobot"}


@pytest.mark.parametrize(
    "line", ["import torchvision", "import torchvision.io", "from torchvision.transforms import v2"]
)
def test_the_linter_refuses_torchvision(line: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", "src/fathom/x.py", "-"]
    checked = subprocess.run(command, input=f"{line}\n", cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 1
    assert "TID251" in checked.stdout


def test_every_package_has_its_place_in_the_import_contract() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    source = Path(fathom.__file__).parent
    rooms = {path.parent.name for path in source.glob("*/__init__.py")} | {
        path.stem for path in source.glob("[!_]*.py")
    }
    assert rooms == placed


def test_the_makefile_explains_itself() -> None:
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "quickstart", "test", "test-slow", "lint", "docs", "clean", "help"):
        assert re.search(rf"^{target}\s", helped, re.MULTILINE)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"FATHOM_TORCH": "mine"}, "FATHOM_TORCH is 'mine'"),
        ({"PYTHON": "/no/such/python"}, "there is no /no/such/python"),
    ],
)
def test_a_setup_that_cannot_start_says_why_and_touches_nothing(
    settings: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    command = ["bash", "scripts/setup.sh"]
    setup = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"} | settings, capture_output=True, text=True
    )
    assert setup.returncode == 2
    assert sentence in setup.stderr
    assert not (tmp_path / ".venv").exists()
