"""The depth-aware VLM's quickstart, end to end, at toy scale."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.recipes.depth_vlm import spatial_quickstart, spatial_toy
from fathom.recipes.vlm_quickstart import run_vlm_quickstart
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


def test_every_arm_differs_in_its_fusion_alone():
    recipe = spatial_quickstart()
    none, concat = recipe.arm("none"), recipe.arm("concat")
    assert none.training == concat.training
    assert replace(none.model, fusion="concat") == concat.model
