"""LIBERO's files: found where they are said to be, read without trust, and clear words where they are missing."""

import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fathom.errors import UserError
from fathom.simulation.libero import assets as module
from fathom.simulation.libero.assets import (
    SETTING,
    are_stand_ins,
    assets,
    config_folder,
    initial_states,
    package,
)
from fathom.simulation.libero.suite import LIBERO_SUITES

PARTS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures")


THEIR_ASSETS = os.environ.get(SETTING, "")
"""Before the tests change it."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(SETTING, "")
    return tmp_path / "cache"


def make_assets(folder: Path, texture_bytes: int = 155) -> Path:
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    bowl = folder / "stable_scanned_objects" / "akita_black_bowl"
    bowl.mkdir()
    (bowl / "texture.png").write_bytes(bytes(texture_bytes))
    return folder


def make_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that has no code."""
    root = folder / "site" / "libero" / "libero"
    (root / "bddl_files").mkdir(parents=True)
    (root.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    return root


def write_states(root: Path, content: bytes) -> Path:
    path = root / "init_files" / "libero_goal" / "task.pruned_init"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return path


def test_a_folder_or_the_one_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_assets(tmp_path / "libero" / "assets")
    for setting in (folder, folder.parent):
        monkeypatch.setenv(SETTING, str(setting))
        assert assets() == folder


def test_an_archive_is_unpacked_into_the_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "libero_assets.tar.xz", "w:xz") as archive:
        archive.add(make_assets(tmp_path / "assets"), "assets")
    monkeypatch.setenv(SETTING, str(tmp_path / "libero_assets.tar.xz"))
    found = assets()
    assert found.is_relative_to(cache / "assets") and (found / "scenes").is_dir()
    assert assets() == found


def test_a_wrong_folder_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scenes").mkdir()
    monkeypatch.setenv(SETTING, str(tmp_path))
    with pytest.raises(UserError, match=r"not LIBERO's assets, which have the folders .*scenes.*; set FATHOM_LIBERO"):
        assets()


def test_without_a_setting_they_are_downloaded_and_the_setting_is_left_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    folder = make_assets(tmp_path / "hub")
    asked = []

    def download(source: str, files: list[str], **options: str) -> Path:
        asked.append((source, options))
        return folder

    monkeypatch.setattr("fathom.hub.local_folder", download)
    assert assets() == assets() == folder
    assert asked == [("lerobot/libero-assets", {"repo_type": "dataset"})]
    assert os.environ[SETTING] == str(folder)


def test_what_libero_has_downloaded_itself_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make_assets(tmp_path / ".cache" / "libero" / "assets")
    assert assets() == folder


def test_without_a_network_both_ways_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    def fail(*_: object, **__: object) -> Path:
        raise UserError("no network")

    monkeypatch.setattr("fathom.hub.local_folder", fail)
    with pytest.raises(UserError, match=r"set FATHOM_LIBERO_ASSETS to .* or run `hf download .*` .*no network"):
        assets()


def test_stand_ins_are_told_from_official_assets(tmp_path: Path) -> None:
    assert are_stand_ins(make_assets(tmp_path / "offline"))
    assert not are_stand_ins(make_assets(tmp_path / "official", texture_bytes=1_000_000))


def test_a_missing_package_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"LIBERO is not installed: `pip install .*--no-deps hf-libero"):
        package()
    with pytest.raises(UserError, match=r"LIBERO needs robosuite, .*`pip install"):
        LIBERO_SUITES[0].prepare()


def test_each_installation_has_its_own_configuration(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_package(tmp_path, monkeypatch)
    folder = config_folder()
    assert folder.is_relative_to(cache)
    assert f"bddl_files: '{root / 'bddl_files'}'" in (folder / "config.yaml").read_text().splitlines()
    other = make_package(tmp_path / "other", monkeypatch)
    assert config_folder() != folder and str(other) in (config_folder() / "config.yaml").read_text()


def test_a_cache_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written to .*set FATHOM_CACHE"):
        config_folder()


def test_recorded_states_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = np.arange(12.0).reshape(3, 4)
    # NumPy 1, with which LIBERO's files were written, called its module by another name
    content = pickle.dumps(states, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    write_states(make_package(tmp_path, monkeypatch), content)
    np.testing.assert_array_equal(initial_states("libero_goal", "task"), states)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_recorded_states_cannot_run_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_states(make_package(tmp_path, monkeypatch), pickle.dumps(Trap(tmp_path / "trapped"), protocol=2))
    with pytest.raises(UserError, match=r"task\.pruned_init: no recorded initial states .*mkdir, which is no array"):
        initial_states("libero_goal", "task")
    assert not (tmp_path / "trapped").exists()


def test_broken_recorded_states_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_states(make_package(tmp_path, monkeypatch), b"")
    for content in (b"no zip", path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no recorded initial states"):
            initial_states("libero_goal", "task")


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.usefixtures("libero")
def test_importing_libero_asks_nothing_and_leaves_the_home_alone(tmp_path: Path, cache: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = "from fathom.simulation.libero.world import build; build('libero_object', 'TASK')"
    code = code.replace("TASK", "pick_up_the_milk_and_place_it_in_the_basket")
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HOME": str(home), SETTING: THEIR_ASSETS, "FATHOM_CACHE": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert list(home.iterdir()) == []
