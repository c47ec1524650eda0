"""The depth-aware VLM's quickstart, end to end, at toy scale."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fathom.errors import UserError
from fathom.recipes.depth_vlm import spatial_quickstart, spatial_toy
from fathom.recipes.vlm_quickstart import _Run, run_vlm_quickstart
from fathom.vlm.saving import load_depth_vlm


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A toy run that is killed while it trains its first arm, and then run again."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-m", "fathom", "vlm", "quickstart", "--toy", "--out", "run"]
    first = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "run/runs/share1-seed0/none/settings.json").exists():
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        first.kill()
        first.communicate()
    base = folder / "run/runs/share1-seed0/base/model.safetensors"
    untouched = base.stat().st_mtime_ns
    second = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    assert base.stat().st_mtime_ns == untouched  # it went on, not anew
    return folder / "run"


@pytest.mark.slow
def test_everything_lands_where_it_should(run):
    arms = run / "runs/share1-seed0"
    for arm in ("none", "concat"):
        assert load_depth_vlm(arms / arm).config.fusion == arm
        assert len((arms / arm / "predictions.jsonl").read_text().splitlines()) > 5
    assert (arms / "aligned/depth_encoder.safetensors").is_file()
    page = (run / "report.html").read_text()
    for words in ("none", "concat", "relative_position", "rgb_to_depth@1", "Examples", "true: "):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere


@pytest.mark.slow
def test_another_recipe_in_its_folder_is_refused(run):
    with pytest.raises(UserError, match="holds a run with other settings"):
        run_vlm_quickstart(replace(spatial_toy(), fusion="rgbd"), run)


def test_shares_lie_between_nothing_and_all(tmp_path):
    with pytest.raises(UserError, match=r"scale is 2: shares of the training scenes"):
        run_vlm_quickstart(spatial_toy(), tmp_path / "run", shares=(2,))
    assert not (tmp_path / "run").exists()


def questions(folder, **more):
    """Eight scenes, each seen in two frames."""
    for scene in range(8):
        for frame in range(2):
            Image.new("RGB", (4, 4)).save(folder / f"{scene}-{frame}.png")
    names = [(scene, frame) for scene in range(8) for frame in range(2)]
    lines = [
        {"id": f"{scene}-{frame}-0", "type": "count", "image": f"{scene}-{frame}.png", "depth": f"{scene}-{frame}.png"}
        | {"question": "How many?", "answer": "2", **{name: of(scene) for name, of in more.items()}}
        for scene, frame in names
    ]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_share_of_the_data_is_a_share_of_its_scenes(tmp_path):
    run = _Run(spatial_toy(), tmp_path, questions(tmp_path, scene=int), seed=0, share=0.5)
    found = run.conversations()
    assert len(found) == 8 and len({one.scene for one in found}) == 4


def test_questions_without_scenes_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="without a field 'scene'"):
        run_vlm_quickstart(spatial_toy(), tmp_path / "run", questions=questions(tmp_path))
    assert not (tmp_path / "run/runs").exists()


def test_every_arm_differs_in_its_fusion_alone():
    recipe = spatial_quickstart()
    none, concat = recipe.arm("none"), recipe.arm("concat")
    assert none.training == concat.training
    assert replace(none.model, fusion="concat") == concat.model
