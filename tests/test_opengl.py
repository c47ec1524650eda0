"""MuJoCo draws here, and where it cannot we learn why without crashing."""

import subprocess
import sys

import pytest

from fathom import opengl


def test_a_backend_that_works_is_found() -> None:
    pytest.importorskip("mujoco")
    found = subprocess.run([sys.executable, "-m", "fathom.opengl"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() in opengl.candidates()


def test_a_backend_that_does_not_exist_is_explained() -> None:
    pytest.importorskip("mujoco")
    reason = opengl.why_not("crayon")
    assert reason and "invalid value" in reason and "crayon" in reason


def test_what_the_user_set_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.setenv("MUJOCO_GL", "crayon")
    assert opengl.candidates() == ("crayon",)
    backend, failures = opengl.find()
    assert backend is None and failures.keys() == {"crayon"}


@pytest.mark.parametrize(
    ("code", "stderr", "reason"),
    [
        (1, "AttributeError: 'NoneType' object has no attribute 'eglQueryString'", "its library is not installed"),
        (-11, "", "the driver crashed (signal 11)"),
        (1, "Traceback:\n  x\nmujoco.FatalError: no context\nException ignored in:\n", "mujoco.FatalError: no context"),
        (1, "", "no picture"),
    ],
)
def test_failures_are_told_in_a_line(code: int, stderr: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    assert opengl.why_not("egl") == reason


def test_a_driver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 5)

    monkeypatch.setattr(subprocess, "run", hang)
    assert opengl.why_not("egl", timeout=5) == "no picture within 5 s"
