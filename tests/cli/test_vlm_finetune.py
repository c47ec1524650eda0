"""`fathom vlm finetune`: a run's folder belongs to what the files held when it began."""

import json
from hashlib import sha256

import pytest
from PIL import Image

from fathom.cli.main import main
from fathom.training import finetune as finetuning
from fathom.training.settings import claim


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command's words; nothing is trained, its folder alone is claimed."""

    def claims(start, conversations, recipe, folder, *, made_from):
        folder.mkdir(exist_ok=True)
        claim(folder, recipe, **made_from)

    monkeypatch.setattr(finetuning, "finetune", claims)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write(tmp_path, "near")
    (tmp_path / "aligned").mkdir()
    (tmp_path / "aligned/alignment.json").write_text("{}")
    (tmp_path / "aligned/depth_encoder.safetensors").write_bytes(b"weights")
    return ["vlm", "finetune", str(tmp_path / "talk.jsonl"), "--model", "base", "--out", str(tmp_path / "run")]


def write(folder, answer):
    line = {"image": "a.png", "question": "How far is it?", "answer": answer}
    (folder / "talk.jsonl").write_text(json.dumps(line))


def digest(path):
    return sha256(path.read_bytes()).hexdigest()[:16]


def test_changed_conversations_are_refused(command, tmp_path, capsys):
    assert main(command) == main(command) == 0
    before = digest(tmp_path / "talk.jsonl")
    write(tmp_path, "far")
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "holds a run with other settings" in told
    assert f"made_from.file_digest is {before} there and {digest(tmp_path / 'talk.jsonl')} here" in told


@pytest.mark.parametrize("name", ["alignment.json", "depth_encoder.safetensors"])
def test_another_aligned_encoder_in_the_same_place_is_refused(command, tmp_path, capsys, name):
    command += ["--aligned", str(tmp_path / "aligned")]
    assert main(command) == main(command) == 0
    (tmp_path / "aligned" / name).write_text("others")
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "made_from.aligned_digest is " in told and "file_digest" not in told
    (tmp_path / "aligned" / name).unlink()
    assert main(command) == 2
    assert f"{name} is missing" in capsys.readouterr().err
