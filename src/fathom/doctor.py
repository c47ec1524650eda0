"""Is everything here that Fathom needs? Each part is really used once, not only looked for."""

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from fathom import opengl
from fathom.errors import UserError
from fathom.simulation import SUITES, find_suite
from fathom.simulation.trial import look, prepare, versions
from fathom.workers import Answer, Call, Workers

_DISK_GB = 3.0  # a quickstart and its checkpoints, with room to spare
_MEMORY_GB = 6.0  # what the quickstart may use


@dataclass(frozen=True)
class Finding:
    """What was found of one part.

    Attributes:
        part: its name.
        detail: what is here, or what is wrong with it.
        mend: how to mend it; empty when it is in order.
        required: whether nothing works without it.
    """

    part: str
    detail: str
    mend: str = ""
    required: bool = True

    @property
    def ok(self) -> bool:
        return not self.mend

    def line(self) -> str:
        """One line for the terminal, with rich's colour marks."""
        mark = "[green]ok[/]  " if self.ok else "[red]no[/]  " if self.required else "[yellow]–[/]   "
        line = f"{mark}{self.part:<13} {escape(self.detail)}"
        return line if self.ok else f"{line}\n    {'':<13} → {escape(self.mend)}"


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether everything required is in order."""
    return all(finding.ok or not finding.required for finding in findings)


def examine() -> Iterator[Finding]:
    """Looks at one part after the other, the ones that others stand on first. Takes some seconds in all."""
    for part, check in CHECKS.items():
        try:
            yield check()
        except Exception as error:  # a broken installation raises anything at all; that is what we are here to tell
            reason = str(error).strip().splitlines() or [type(error).__name__]
            yield Finding(part, reason[0], mend=_REINSTALL)
    yield from _suites()


def examine_suite(name: str, sim_python: Path | None = None) -> Iterator[Finding]:
    """Builds one task of a suite and looks at it, in a worker process like those of an evaluation.

    Args:
        sim_python: an interpreter that has the simulator, where this one has not.

    Raises:
        UserError: there is no such suite, or the interpreter cannot run a worker.
    """
    suite = find_suite(name)
    task = next(iter(suite.instructions))
    with Workers(1, sim_python, revive=True) as workers:

        def ask(function: Callable[..., Any], *arguments: Any) -> Answer:
            workers.send(0, Call(None, function, arguments))
            return workers.receive()[1]

        try:
            found, seen = ask(versions, name), ask(look, name, task)
        except UserError as error:  # the suite's own sentence, which ends with how to mend it
            yield Finding(name, "cannot be used", mend=str(error))
            return
    yield Finding(name, ", ".join(f"{package} {version}" for package, version in (found.value or {}).items()))
    if seen.error is None:
        yield Finding("simulator", f"{task}: {seen.value}")
    else:
        mend = f"{_REINSTALL}; the simulator said: {seen.error.strip().splitlines()[-1]}"
        yield Finding("simulator", f"{task} cannot be built", mend=mend)


def _suites() -> Iterator[Finding]:
    """The benchmarks beside Meta-World, those with the same answer in one line."""
    answers: dict[str, list[str]] = {}
    with _offline(), Workers(1) as workers:
        for name in SUITES:
            if name == "metaworld":
                continue
            workers.send(0, Call(name, prepare, (name,)))
            try:
                told = workers.receive()[1].error or ""
            except UserError as error:
                told = str(error)
            answers.setdefault(told.strip().split("\n")[-1], []).append(name)
    for mend, names in answers.items():
        detail = f"{', '.join(names)}: {'not ready' if mend else 'ready'}"
        yield Finding("benchmarks", detail, mend=mend, required=False)


@contextmanager
def _offline() -> Iterator[None]:
    """Processes that are started within download nothing: looking what is there must not fetch it."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        del os.environ["HF_HUB_OFFLINE"]
        if before is not None:
            os.environ["HF_HUB_OFFLINE"] = before


_REINSTALL = "install it again with the tested version: make setup"


def _python() -> Finding:
    return Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Finding:
    import torch

    detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < (2, 9):
        return Finding("torch", detail, mend="Fathom needs torch 2.9 or later: make setup")
    torch.ones(2, 2) @ torch.ones(2, 2)
    return Finding("torch", detail)


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        torch.ones(2, device="cuda").sum().item()
        return Finding("accelerator", f"{len(names)} × {names[0]}")
    if shutil.which("nvidia-smi"):
        return Finding(
            "accelerator",
            f"there is an NVIDIA driver, but torch {torch.__version__} cannot use it",
            mend="let the set-up keep a torch that can: FATHOM_TORCH=system make setup",
            required=False,
        )
    return Finding("accelerator", "none; everything runs on the CPU")


def _transformers() -> Finding:
    version = importlib.metadata.version("transformers")
    try:
        from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer  # noqa: F401 (the import is the check)
        from transformers.models.siglip.modeling_siglip import SiglipVisionModel  # noqa: F401
    except Exception as error:
        # A torchvision that was built for another torch breaks every import of transformers.
        foreign = importlib.util.find_spec("torchvision") is not None
        mend = "torchvision does not fit this torch: pip uninstall torchvision" if foreign else _REINSTALL
        return Finding("transformers", f"{version} cannot be imported: {str(error).splitlines()[0]}", mend=mend)
    return Finding("transformers", version)


def _simulator() -> Finding:
    if importlib.util.find_spec("metaworld") is None:
        return _no_simulator("metaworld", "Meta-World is not installed; training from recorded data works without it")
    import metaworld  # noqa: F401 (the import is the check)

    return Finding("metaworld", importlib.metadata.version("metaworld"))


def _renderer() -> Finding:
    if importlib.util.find_spec("mujoco") is None:
        return _no_simulator("renderer", "MuJoCo is not installed; nothing to draw with, and nothing to draw")
    backend, failures = opengl.find()
    if backend is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        return Finding("renderer", f"MuJoCo can draw with no OpenGL here ({reasons})", mend=opengl.MEND)
    return Finding("renderer", f"MuJoCo {importlib.metadata.version('mujoco')} draws with MUJOCO_GL={backend}")


def _no_simulator(part: str, detail: str) -> Finding:
    return Finding(part, detail, mend="make setup installs the simulator (the extra 'sim')", required=False)


def _codecs() -> Finding:
    import av

    lossless = {"x265-params": "lossless=1:log-level=none"}
    working = {
        "lossless depth (libx265, gray12le)": _is_exact("libx265", "gray12le", lossless),
        "RGB video (libx264)": _is_exact("libx264", "yuv420p", {"qp": "0"}),
        # FFmpeg's own AV1 decoder only drives hardware; LeRobot's videos need one that decodes by itself.
        "an AV1 decoder (libdav1d)": bool({"libdav1d", "libaom-av1"} & av.codecs_available),
    }
    lacking = [name for name, works in working.items() if not works]
    if lacking:
        mend = "pip install --force-reinstall --no-deps av  (its wheels bring them all)"
        return Finding("codecs", f"PyAV {av.__version__} lacks {', '.join(lacking)}", mend=mend)
    return Finding("codecs", f"PyAV {av.__version__}: H.264, lossless 12-bit HEVC, AV1 decoding")


def _is_exact(codec: str, pixels: str, lossless: dict[str, str]) -> bool:
    """Whether a short video comes back from ``codec`` as it was, under the codec's own ``lossless`` options."""
    import av
    import numpy as np

    # A yuv420p picture of 64 × 64 is an array of 96 rows: brightness, then colour at half the size.
    rows, levels, kind = (64, 4096, np.uint16) if pixels == "gray12le" else (96, 256, np.uint8)
    ramp = np.linspace(0, levels - 1, rows * 64).reshape(rows, 64).astype(kind)
    sent = np.stack([ramp, ramp[::-1], ramp[:, ::-1]])
    file = io.BytesIO()
    try:
        with av.open(file, mode="w", format="mp4") as output:
            stream: Any = output.add_stream(codec, rate=10, width=64, height=64, pix_fmt=pixels, options=lossless)
            for picture in sent:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture.copy(), format=pixels)))
            output.mux(stream.encode())
        file.seek(0)
        with av.open(file, mode="r") as recorded:
            received = [frame.to_ndarray(format=pixels) for frame in recorded.decode(video=0)]
    except (av.FFmpegError, ValueError):  # ValueError: this build knows no such codec or pixel format
        return False
    return np.array_equal(received, sent)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < _DISK_GB:
        mend = f"free some space: a quickstart wants {_DISK_GB:.0f} GB"
        return Finding("disk", f"{free:.1f} GB free here", mend=mend)
    return Finding("disk", f"{free:.0f} GB free here")


def _memory() -> Finding:
    free = _free_memory_gb()
    if free is None:
        return Finding("memory", f"not known on {platform.system()}")
    if free < _MEMORY_GB:
        mend = f"close other programs: the quickstart uses up to {_MEMORY_GB:.0f} GB"
        return Finding("memory", f"{free:.1f} GB free", mend=mend, required=False)
    return Finding("memory", f"{free:.0f} GB free, {os.cpu_count()} cores")


def _free_memory_gb() -> float | None:
    """What this process may still take: what the machine has free, or what is left of its container's share."""
    try:
        meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(meminfo["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit, or none that can be read
        left = free
    return min(free, left) / 1e9


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": _python,
    "torch": _torch,
    "accelerator": _accelerator,
    "transformers": _transformers,
    "metaworld": _simulator,
    "renderer": _renderer,
    "codecs": _codecs,
    "disk": _disk,
    "memory": _memory,
}
