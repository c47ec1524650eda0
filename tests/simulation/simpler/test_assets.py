"""ManiSkill's assets are found, unpacked, or asked for in one sentence; never by a question on the terminal."""

import os
import tarfile
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.simulation.simpler import suite as suites
from fathom.simulation.simpler.assets import _NEEDED, SETTING, are_stand_ins, assets


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "cache"))
    for name in (SETTING, "MS_ASSET_DIR", "MPLCONFIGDIR", "MESA_SHADER_CACHE_DIR"):
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)


def fill(folder: Path, stage: int = 1000) -> Path:
    for part in _NEEDED:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes(b"x" * stage)
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, str(fill(tmp_path / "mine")))
    assert assets() == tmp_path / "mine"
    assert os.environ["MS_ASSET_DIR"] == str(tmp_path / "mine")  # where ManiSkill looks


def test_an_archive_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "ms_assets")
    with tarfile.open(tmp_path / "bridge.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "ms_assets", "ms_assets")
    monkeypatch.setenv(SETTING, str(tmp_path / "bridge.tar.xz"))
    assert assets().is_relative_to(tmp_path / "cache")
    assert (assets() / _NEEDED[0]).exists()


def test_maniskills_own_download_is_found(tmp_path: Path) -> None:
    fill(tmp_path / "home" / ".maniskill")
    assert assets() == tmp_path / "home" / ".maniskill"


def test_what_is_missing_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"download_asset.*{SETTING}"):
        assets()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(SETTING, str(tmp_path / "empty"))
    with pytest.raises(UserError, match="not ManiSkill's assets"):
        assets()


def test_stand_ins_are_known(tmp_path: Path) -> None:
    assert are_stand_ins(fill(tmp_path / "one"))
    assert not are_stand_ins(fill(tmp_path / "other", 200_000))


def test_a_missing_simulator_or_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suites.SimplerWidowX()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fathom-vla\[simpler\]'"):
        suite.prepare()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv(SETTING, str(fill(tmp_path / "mine")))
    monkeypatch.setattr(suites, "_DRIVERS", (tmp_path / "drivers",))
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"Vulkan.*mesa-vulkan-drivers"):
        suite.prepare()
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "lvp_icd.json").touch()
    suite.prepare()
    assert Path(os.environ["MESA_SHADER_CACHE_DIR"]).is_relative_to(tmp_path / "cache")  # and not the user's home
