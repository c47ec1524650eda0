"""The doctor finds what is missing, says how to mend it, and never falls over itself."""

import importlib.util
import os
from collections.abc import Callable

import pytest

from fathom import doctor, opengl
from fathom.cli import main as cli
from fathom.doctor import Finding
from fathom.errors import UserError


@pytest.fixture
def lacks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package look as if it were not installed."""

    def hide(package: str) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))

    return hide


@pytest.fixture(autouse=True)
def no_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of them is a test of its own."""
    monkeypatch.setattr(doctor, "SUITES", {})


def test_a_healthy_machine_is_ok_and_a_missing_part_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"Python": doctor._python})
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("ok  Python")

    monkeypatch.setitem(doctor.CHECKS, "torch", lambda: Finding("torch", "1.0 [old]", mend="pip install 'a[b]'"))
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "no  torch         1.0 [old]" in out
    assert "→ pip install 'a[b]'" in out


def test_what_is_optional_does_not_fail_the_check() -> None:
    assert doctor.is_healthy([Finding("renderer", "none", mend="install it", required=False)])
    assert not doctor.is_healthy([Finding("renderer", "none", mend="install it")])


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise ImportError("libfoo.so.1: cannot open shared object file\nand more")

    monkeypatch.setattr(doctor, "CHECKS", {"torch": broken})
    (finding,) = doctor.examine()
    assert (finding.part, finding.ok) == ("torch", False)
    assert finding.detail == "libfoo.so.1: cannot open shared object file"
    assert "make setup" in finding.mend


def test_no_opengl_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengl, "why_not", lambda backend: "its library is not installed")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    finding = doctor._renderer()
    assert not finding.ok and finding.required
    assert "egl: its library is not installed; osmesa: its library is not installed" in finding.detail
    assert "libegl1" in finding.mend


@pytest.mark.parametrize(("package", "check"), [("metaworld", doctor._simulator), ("mujoco", doctor._renderer)])
def test_no_simulator_is_no_illness(lacks: Callable[[str], None], package: str, check: Callable[[], Finding]) -> None:
    lacks(package)
    finding = check()
    assert not finding.ok and not finding.required
    assert "make setup" in finding.mend


def test_a_build_without_a_codec_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_exact", lambda codec, pixels, lossless: codec != "libx265")
    finding = doctor._codecs()
    assert "lossless depth (libx265, gray12le)" in finding.detail and "libx264" not in finding.detail
    assert "pip install" in finding.mend


def test_the_codecs_here_keep_every_pixel() -> None:
    assert doctor._codecs().ok
    assert not doctor._is_exact("no_such_codec", "yuv420p", {})


def test_too_little_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_free_memory_gb", lambda: 2.0)
    assert not doctor._memory().ok and not doctor._memory().required
    monkeypatch.setattr(doctor, "_DISK_GB", 1e9)
    assert not doctor._disk().ok and doctor._disk().required


def test_benchmarks_that_lack_the_same_part_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {})
    monkeypatch.setattr(doctor, "SUITES", dict.fromkeys(("a", "b", "metaworld", "c")))
    monkeypatch.setattr(doctor, "prepare", lacking_foo_but_for_b)
    lacking, ready = doctor.examine()
    assert (lacking.detail, lacking.mend) == ("a, c: not ready", "Foo is not installed: `pip install foo`.")
    assert ready.ok and ready.detail == "b: ready"
    assert doctor.is_healthy([lacking]), "nothing else needs it"
    assert "HF_HUB_OFFLINE" not in os.environ


def lacking_foo_but_for_b(suite: str) -> None:
    """Runs in a worker; looking must not download."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    if suite != "b":
        raise UserError("Foo is not installed: `pip install foo`.")


def test_a_benchmark_is_tried_by_looking_at_a_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--suite", "metaworld"]) == 0
    out = capsys.readouterr().out
    assert "ok  metaworld" in out and "mujoco" in out
    assert "“put the round nut onto the peg”, seen from" in out
    assert cli.main(["doctor", "--suite", "metaverse"]) == 2
    assert "no suite called 'metaverse': expected one of metaworld" in capsys.readouterr().err
    assert cli.main(["doctor", "--suite", "metaworld", "--sim-python", "/bin/false"]) == 2
    assert "Python 3.11 or later with NumPy" in capsys.readouterr().err
