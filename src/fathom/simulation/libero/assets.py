"""LIBERO's files: meshes and textures, task definitions, recorded initial states. Nothing here loads a simulator.

Task definitions and initial states come with the package (``hf-libero``), meshes and textures do not.
"""

import codecs
import hashlib
import importlib.util
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fathom.errors import UserError
from fathom.files import write_file
from fathom.simulation.archives import assets_from, cache

SETTING = "FATHOM_LIBERO_ASSETS"
HUB = "lerobot/libero-assets"
"""Where hf-libero, too, downloads them from."""

STAND_INS = (
    "Measured with LIBERO's offline assets: bowls, plates, the basket and some mugs, trays, walls and backgrounds are "
    "stand-ins for the official meshes and textures; collision shapes, layouts and initial states are official."
)
"""To be said beside every number that was measured with them."""

_PARTS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures")

INSTALL = "pip install 'fathom-vla[libero]' && pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1"
"""What they themselves ask for (OpenCV with windows, an old robomimic …) conflicts with much, hence ``--no-deps``."""


def package() -> Path:
    """The folder of the installed package, which holds ``bddl_files`` and ``init_files``.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec("libero")
    for folder in found.submodule_search_locations or () if found is not None else ():
        if (Path(folder) / "libero" / "bddl_files").is_dir():
            return Path(folder) / "libero"
    raise UserError(f"LIBERO is not installed: `{INSTALL}`.")


def assets() -> Path:
    """The folder of LIBERO's meshes and textures.

    ``FATHOM_LIBERO_ASSETS`` says where: a folder, or an archive, which is unpacked once. Where it is not set, they are
    looked for where hf-libero keeps them, then downloaded from where it would; the variable is set for this process and
    its children. (hf-libero's own download fails with huggingface_hub 1.0 and later.)

    Raises:
        UserError: they are not where the variable says, or cannot be downloaded.
    """
    folder = assets_from(SETTING)
    if folder is not None:
        return _checked(folder)
    folder = Path("~/.cache/libero/assets").expanduser()  # hf-libero's own
    if not _is_whole(folder):
        folder = _downloaded()
    os.environ[SETTING] = str(folder)
    return folder


def _downloaded() -> Path:
    from fathom.hub import local_folder

    try:
        return _checked(local_folder(HUB, ["*"], repo_type="dataset"))
    except (UserError, ImportError) as error:
        raise UserError(
            f"LIBERO's assets are not here and could not be downloaded: set {SETTING} to a folder or .tar.xz of them, "
            f"or run `hf download {HUB} --repo-type dataset` where there is a network ({error})."
        ) from None


def _checked(folder: Path) -> Path:
    """``folder`` itself or the ``assets`` in it."""
    for candidate in (folder, folder / "assets"):
        if _is_whole(candidate):
            return candidate
    raise UserError(
        f"{folder}: these are not LIBERO's assets, which have the folders {', '.join(_PARTS)}; set {SETTING} to them."
    )


def _is_whole(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in _PARTS)


def are_stand_ins(folder: Path) -> bool:
    """Whether some visuals are stand-ins (see :data:`STAND_INS`): the black bowl then has a flat colour, a texture of
    some hundred bytes instead of a photograph."""
    texture = folder / "stable_scanned_objects" / "akita_black_bowl" / "texture.png"
    return not texture.exists() or texture.stat().st_size < 10_000


def config_folder() -> Path:
    """A folder with the configuration that LIBERO wants to find when it is imported: without one it asks questions.

    It is in Fathom's cache; each installation of LIBERO has its own.
    """
    root = package()
    folder = cache() / "libero" / hashlib.sha256(str(root).encode()).hexdigest()[:12]
    paths = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": folder / "datasets",
        "assets": root / "assets",
    }
    content = "".join(f"{name}: '{path}'\n" for name, path in paths.items()).encode()
    file = folder / "config.yaml"
    try:
        if not file.exists() or file.read_bytes() != content:
            write_file(file, content)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); set FATHOM_CACHE to a folder that can."
        ) from None
    return folder


def bddl_file(suite: str, task: str) -> Path:
    """The definition of a task."""
    return package() / "bddl_files" / suite / f"{task}.bddl"


def initial_states(suite: str, task: str) -> NDArray[np.float64]:
    """A task's recorded initial states, (50, 1 + nq + nv): time, positions and velocities of MuJoCo.

    Raises:
        UserError: the package's file is broken.
    """
    path = package() / "init_files" / suite / f"{task}.pruned_init"
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            states = _ArrayUnpickler(io.BytesIO(archive.read(name))).load()
    except (OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{path}: no recorded initial states of LIBERO ({error}); install hf-libero again.") from error
    return np.asarray(states, np.float64)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain NumPy arrays and nothing else: a pickle can otherwise run anything."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # NumPy 2 has it elsewhere
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return self._ALLOWED[module, name]
