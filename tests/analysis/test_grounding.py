"""The whole analysis: `fathom analyze grounding`."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.policies import conftest as qdepth
from tests.policies.deepvision_vla import conftest as deepvision

from fathom.analysis import METHODS, Named, Settings, analyze_grounding, load_policies, sight_of
from fathom.analysis.grounding import _names
from fathom.cli.main import main
from fathom.data.dataset import open_dataset
from fathom.errors import UserError
from fathom.policies.qdepth_vla.config import VISIBILITY
from fathom.report.grounding import write_grounding

from .conftest import policy_of, write_dataset


@pytest.fixture(scope="module")
def made(dataset, saved, tmp_path_factory):
    """Two policies side by side, through the command line."""
    out = tmp_path_factory.mktemp("grounding") / "out"
    first, beside = (str(saved[kind]) for kind in ("pi0", "deepvision"))
    arguments = ["analyze", "grounding", first, str(dataset), "--beside", beside, "--out", str(out)]
    assert main([*arguments, "--rates", "0.5", "1", "--layers", "0", "1", "--frames", "6", "--shown", "2"]) == 0
    return out


def test_every_number_is_there(made):
    found = json.loads((made / "grounding.json").read_text())
    assert [policy["label"] for policy in found["policies"]] == ["pi0", "deepvision"]
    assert [policy["title"] for policy in found["policies"]] == ["open π0", "DeepVision-VLA"]
    assert found["regions"] == ["drawer"] and found["split"] == "validation"
    assert found["n_frames"] == len(found["frames"]) == 6 and found["n_episodes"] == 2
    assert {frame["episode"] for frame in found["frames"]} == {2, 3}
    for policy in found["policies"]:
        layers = policy["layers"]
        for query in ("action", "instruction"):
            for measures in policy["attention"][query].values():
                assert set(measures) == {"mass", "region", "share", "entropy", "pointing"}
                for values in measures.values():
                    assert len(values) == layers
                    assert all(v is None or -1e-6 <= v["low"] <= v["value"] <= v["high"] <= 1 + 1e-6 for v in values)
        points = {(p["method"], p["where"], p["rate"], p["layer"]) for p in policy["removed"]}
        assert points == {
            (method, where, rate, layer)
            for method in METHODS
            for where in ("region", "control")
            for rate in (0.5, 1.0)
            for layer in (0, 1)
        }
    expert = found["policies"][1]["attention"]["action"]["expert"]["mass"]
    assert [value is None for value in expert] == [True, True, False, False]
    assert found["policies"][0]["area"]["image"] == pytest.approx(4 / 64)  # the drawer: 10 x 10 of 40 x 40 pixels


def test_the_page_needs_nothing_beside_it(made):
    page = (made / "grounding.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("open the drawer") == 2  # the frames that are shown
    pictures = 2 * ((1 + 2) + (1 + 4) + (1 + 2))  # the expert has maps in two of four layers
    assert page.count("<img") == pictures
    assert page.count("<svg") == 3 + 2  # two attentions, one of the heat, and the curves of each policy
    for name in ("open π0", "DeepVision-VLA", "Knock-out", "6 frames of 2 episodes"):
        assert name in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))


def test_whoever_may_read_whom_there_is_a_page(dataset, tmp_path):
    """Also where the instruction reads no picture, alone and beside others; and with less than the whole region."""
    depth = qdepth.tiny_config().depth
    names = [name for name in VISIBILITY if name != "pi0"]
    policies = {name: policy_of("qdepth", depth=replace(depth, visibility=name)) for name in names}
    settings = Settings(frames=2, shown=1, layers=(1,), rates=(0.5,))
    for own in (policies, {"within_modality": policies["within_modality"]}):
        page = write_grounding(analyze_grounding(own, dataset, Named(), settings), tmp_path).read_text()
        alone = len(own) == 1
        assert ("In this policy it reads no tokens of the picture" in page) == alone
        assert page.count("<svg") == (1 if alone else 2) + 1 + len(own)
        assert "moved without 50 % of the region" in page and "50 % of the region's tokens" in html.unescape(page)


@pytest.mark.parametrize(
    "changes, title",
    [
        ({}, "DeepVision-VLA"),
        ({"expert": None}, "QwenVLA-OFT"),
        ({"expert": deepvision.with_(fusion="early")}, "QwenVLA-OFT with early fusion"),
        ({"expert": deepvision.with_(fusion="aligned")}, "QwenVLA-OFT with aligned fusion"),
        ({"expert": deepvision.with_(encoder="siglip")}, "DeepVision-VLA with SigLIP"),
        ({"depth": deepvision.DEPTH}, "DeepVision-VLA with depth"),
    ],
)
def test_titles(changes, title):
    assert sight_of(policy_of("both" if "depth" in changes else "deepvision", **changes)).title == title


def test_the_error_is_that_of_the_policy_itself(dataset, saved):
    """Against `sample_actions` on the same frames; what is removed changes it by as much as is said."""
    (label, policy), *_ = load_policies([saved["oft"]]).items()
    found = analyze_grounding({label: policy}, dataset, Named(), Settings(frames=8, layers=(0,), rates=(1.0,)))
    batch = open_dataset(dataset, horizon=4, split="validation").batch(range(8))
    scaling = policy.normalization.actions
    wrong = (scaling.normalize(policy.sample_actions(batch)) - scaling.normalize(batch.actions)).abs().mean(-1)
    counts = (~batch.action_is_pad).float()
    expected = ((wrong * counts).sum(1) / counts.sum(1)).mean().item()
    (own,) = found.policies
    assert label == "oft" and own.error.value == pytest.approx(expected, abs=1e-5)
    for point in own.removed:
        assert point.harm.value == pytest.approx(point.error.value - own.error.value, abs=1e-6)
        assert point.change.value > 0


def test_it_comes_out_the_same_again_and_noise_is_fixed(dataset, saved):
    settings = Settings(frames=3, shown=1, layers=(1,), rates=(0.5,), seed=4)
    once, again = (
        analyze_grounding(load_policies([saved["pi0"]]), dataset, Named(), settings).to_json() for _ in range(2)
    )
    assert once == again
    # nothing is left of the tokens in the last layer's keys, but the noise is the same: the actions hardly move
    assert once["policies"][0]["removed"][0]["change"]["value"] < 0.05


def test_what_is_shown(dataset, saved):
    found = analyze_grounding(
        load_policies([saved["oft"]]), dataset, Named(), Settings(frames=8, shown=5, layers=(0,), rates=(1.0,))
    )
    assert [shown.episode for shown in found.shown] == [2, 3]  # one of each held-out episode
    (policy,) = found.policies
    assert [set(heat) for heat in policy.heat] == [{"image"}] * 2
    assert policy.heat[0]["image"].shape == (4, 4, 4) and np.isfinite(policy.heat[0]["image"]).all()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--object", "mug"], "no frame shows the object 'mug'"),
        (["--box", "0", "0", "99", "9"], "within the picture of 40 x 40"),
        (["--box", "0", "0", "9", "9", "--object", "drawer"], "give one of them"),
        (["--layers", "0", "7"], "--layers 7: the policy 'oft' has the layers 0 to 3"),
        (["--rates", "0"], "--rates 0: expected shares"),
        (["--frames", "0"], "--frames 0: expected 1 or more"),
        (["--split", "test"], "no split 'test'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(arguments, sentence, dataset, saved, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["analyze", "grounding", str(saved["oft"]), str(dataset), "--out", str(out), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_a_dataset_without_segmentation(saved, tmp_path, capsys):
    root = write_dataset(tmp_path / "plain", segmentation=False)
    assert main(["analyze", "grounding", str(saved["oft"]), str(root), "--out", str(tmp_path / "out")]) == 2
    assert "collect the dataset with --segmentation, or give the region by --box" in capsys.readouterr().err


def test_a_policy_of_unknown_kind(dataset, saved, tmp_path, capsys):
    with pytest.raises(UserError, match=r"kind 'other', .* known for qdepth_vla, deepvision_vla alone"):
        sight_of(SimpleNamespace(cameras=("main",), kind="other"))
    with pytest.raises(UserError, match="sees wrist, and the analysis is of the camera 'main'"):
        sight_of(SimpleNamespace(cameras=("wrist",), kind="other"))
    (tmp_path / "config.json").write_text('{"type": "other"}')
    assert main(["analyze", "grounding", str(tmp_path), str(dataset), "--out", str(tmp_path / "out")]) == 2
    assert "type 'other'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "paths, names",
    [
        (["/r/oft/policy"], ["oft"]),
        (["/r/oft"], ["oft"]),
        (["/r/oft/policy", "/q/deep/policy"], ["oft", "deep"]),
        (["/r/full/seed-0/policy", "/r/none/seed-0/policy"], ["full", "none"]),
        (
            ["/r/full/seed-0/policy", "/r/full/seed-1/policy", "/r/none/seed-0/policy"],
            ["full/seed-0", "full/seed-1", "none/seed-0"],
        ),
    ],
)
def test_policies_go_by_what_tells_them_apart(paths, names):
    assert _names([Path(path) for path in paths]) == names


def test_a_policy_named_twice(saved):
    with pytest.raises(UserError, match="named twice"):
        load_policies([saved["oft"], saved["oft"]])


def test_gradients_are_asked_for_nowhere_else(dataset, saved):
    policies = load_policies([saved["oft"]])
    assert not any(parameter.requires_grad for parameter in policies["oft"].parameters())
    analyze_grounding(policies, dataset, Named(), Settings(frames=2, layers=(0,), rates=(1.0,)))
    assert torch.is_grad_enabled() and not policies["oft"].mixture.watchers
