"""Assets are unpacked once, wholly or not at all, and never outside their folder."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.simulation.archives import assets_from, unpack_once


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FATHOM_CACHE", str(folder))
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_once(tmp_path: Path, cache: Path) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"assets/a.txt": b"one"})
    folder = unpack_once(archive)
    assert (folder / "assets/a.txt").read_bytes() == b"one"
    assert folder.is_relative_to(cache / "assets")
    (folder / "assets/a.txt").write_bytes(b"touched")
    assert (unpack_once(archive) / "assets/a.txt").read_bytes() == b"touched"


def test_a_replaced_archive_is_unpacked_anew(tmp_path: Path) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"a.txt": b"one"})
    first = unpack_once(archive)
    pack(archive, {"a.txt": b"another"})
    second = unpack_once(archive)
    assert first != second
    assert (second / "a.txt").read_bytes() == b"another"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"a.txt": b"one"})
    folder = unpack_once(archive)
    (folder / ".complete").unlink()
    (folder / "a.txt").write_bytes(b"ha")
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir()
    (partial / "b.txt").touch()
    again = unpack_once(archive)
    assert (again / "a.txt").read_bytes() == b"one"
    assert not (again / "b.txt").exists() and not partial.exists()


def test_processes_that_need_it_at_once_all_get_it(tmp_path: Path) -> None:
    archive = pack(tmp_path / "things.tar.xz", {f"{number}.bin": os.urandom(100_000) for number in range(20)})
    program = (
        "import sys, pathlib; from fathom.simulation.archives import unpack_once;"
        "print(len(list(unpack_once(pathlib.Path(sys.argv[1])).glob('*.bin'))))"
    )
    command = [sys.executable, "-c", program, str(archive)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["20"] * 3


@pytest.mark.parametrize("damage", ["short", "no archive"])
def test_a_broken_archive_is_told_and_leaves_nothing(tmp_path: Path, cache: Path, damage: str) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"a.bin": os.urandom(50_000)})
    archive.write_bytes(archive.read_bytes()[:20_000] if damage == "short" else b"hello")
    with pytest.raises(UserError, match=r"things\.tar\.xz.*fetch it again"):
        unpack_once(archive)
    assert not [path for path in (cache / "assets").iterdir() if path.is_dir()]


def test_nothing_is_written_outside(tmp_path: Path, cache: Path) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"../../../escaped.txt": b"out"})
    with pytest.raises(UserError, match="safe"):
        unpack_once(archive)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"a.txt": b"one"})
    (tmp_path / "file").touch()
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="FATHOM_CACHE"):
        unpack_once(archive)


def test_a_full_disk_is_told(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "things.tar.xz", {"a.txt": b"one"})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(UserError, match="disk is full"):
        unpack_once(archive)
    assert not [path for path in (cache / "assets").iterdir() if path.is_dir()]


def test_a_setting_names_a_folder_an_archive_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FATHOM_SOME_ASSETS", raising=False)
    assert assets_from("FATHOM_SOME_ASSETS") is None
    monkeypatch.setenv("FATHOM_SOME_ASSETS", str(tmp_path))
    assert assets_from("FATHOM_SOME_ASSETS") == tmp_path
    archive = pack(tmp_path / "things.tar.xz", {"a.txt": b"one"})
    monkeypatch.setenv("FATHOM_SOME_ASSETS", str(archive))
    assert assets_from("FATHOM_SOME_ASSETS") == unpack_once(archive)
    monkeypatch.setenv("FATHOM_SOME_ASSETS", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="FATHOM_SOME_ASSETS"):
        assets_from("FATHOM_SOME_ASSETS")
