"""Pictures are asked: by a model whose replies are fixed, and by a small one with random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fathom.cli.main import main
from fathom.depth.depth_map import DepthVideo
from fathom.errors import UserError
from fathom.vlm.ask import TOOL, Answer, Lookup, ask
from fathom.vlm.depth_input import nearest_known, read_depth, resized
from fathom.vlm.marker import ARROW_QUESTION
from fathom.vlm.model import DepthVLM

RED = (255, 0, 0)
RAMP = np.tile(np.linspace(1.0, 4.1, 32, dtype=np.float32), (24, 1))
"""Metres of a picture of 32x24: 0.1 more from pixel to pixel, to the right."""


@pytest.fixture
def family() -> str:
    """Asking is the same for both."""
    return "qwen2_5_vl"


@pytest.fixture
def scripted(make, monkeypatch):
    """A model that says fixed replies, and the list of what it was asked: picture, conversation, depth."""

    def build(*replies: str, fusion: str = "none", **settings: Any) -> tuple[DepthVLM, list[tuple]]:
        model, asked, script = make(fusion, **settings), [], iter(replies)

        def reply(image, conversation: Sequence, depth=None, **_: Any) -> str:
            asked.append((image, list(conversation), depth))
            return next(script)

        monkeypatch.setattr(model, "reply", reply)
        return model, asked

    return build


@pytest.fixture
def picture() -> Image.Image:
    return Image.new("RGB", (32, 24), (90, 90, 90))


class Estimating:
    """Depth that is 2 m everywhere, in one of the kinds."""

    def __init__(self, kind: str = "metric") -> None:
        self.kind = kind

    def estimate(self, frames: np.ndarray, *, episode: int | None = None) -> DepthVideo:
        values = np.full(frames.shape[:3], 2.0, np.float32)
        values[:, 0] = 3.0
        return DepthVideo(values, self.kind, np.ones(values.shape, bool))


class TestDepthTool:
    def test_the_model_asks_for_depths_and_goes_on(self, scripted, picture) -> None:
        """(0.5, 0) is column 16: 2.6 m; (1, 1) is the last one: 4.1 m."""
        model, asked = scripted("I look: Depth(0.5,0). It is 9 m.", "Depth( 1.0 , 1 )", "It is 1.5 m in front of it.")
        answer = ask(model, picture, "How far?", RAMP, mode="depth_tool")
        assert answer == Answer("It is 1.5 m in front of it.", (Lookup(0.5, 0.0, 2600), Lookup(1.0, 1.0, 4100)))
        assert [message["role"] for message in asked[-1][1]] == ["user", "assistant"] * 2 + ["user"]
        assert [message["content"] for message in asked[-1][1]] == [
            f"How far?\n{TOOL}", "I look: Depth(0.5,0)", "2600 mm", "Depth( 1.0 , 1 )", "4100 mm",
        ]  # fmt: skip

    def test_it_may_answer_at_once(self, scripted, picture) -> None:
        model, asked = scripted("The depth (2 m) is known.")
        assert model.answer(picture, "How far?", RAMP, mode="depth_tool") == "The depth (2 m) is known."
        assert len(asked) == 1

    def test_it_is_stopped(self, scripted, picture) -> None:
        model, asked = scripted(*["Depth(0,0)"] * 9)
        answer = ask(model, picture, "How far?", RAMP, mode="depth_tool", turns=3)
        assert not answer.finished and len(answer.lookups) == 3 and len(asked) == 4

    def test_a_point_outside_is_explained_to_it(self, scripted, picture) -> None:
        model, asked = scripted("Depth(320, 240)", "Sorry.")
        assert ask(model, picture, "How far?", RAMP, mode="depth_tool").lookups == (Lookup(320.0, 240.0, None),)
        assert "go from 0 to 1" in asked[-1][1][-1]["content"]

    def test_a_hole_has_the_depth_of_the_nearest_pixel(self) -> None:
        holes = RAMP.copy()
        holes[:, :10] = 0
        assert nearest_known(read_depth(holes, "metric"), 2, 20) == pytest.approx(2.0)  # that of column 10

    def test_an_estimator_gives_the_depth(self, scripted, picture) -> None:
        model, _ = scripted("Depth(0.5,0.5)", "2 m")
        model.processor.estimator = Estimating()
        assert ask(model, picture, "How far?", mode="depth_tool").lookups[0].millimetres == 2000

    def test_what_has_no_metres_is_refused(self, scripted, picture) -> None:
        model, _ = scripted()
        with pytest.raises(UserError, match="metric depth is needed, and there is none"):
            ask(model, picture, "How far?", mode="depth_tool")
        model.processor.estimator = Estimating("relative_inverse")
        with pytest.raises(UserError, match=r"is relative_inverse depth.* take another estimator"):
            ask(model, picture, "How far?", mode="depth_tool")
        model, _ = scripted(fusion="positional", depth_kind="relative_inverse")
        with pytest.raises(UserError, match="answers in millimetres, and this model reads relative_inverse"):
            ask(model, picture, "How far?", RAMP, mode="depth_tool")


class TestMarker:
    def test_an_arrow_ends_left_of_the_point(self, scripted, picture) -> None:
        model, asked = scripted("near")
        assert ask(model, picture, "What is this?", mode="marker", point=(20, 12)).text == "near"
        shown = asked[0][0]
        assert shown.getpixel((19, 12)) == RED and shown.getpixel((20, 12)) != RED
        assert asked[0][1] == [{"role": "user", "content": "What is this?"}]

    def test_without_a_question_it_is_depthlm_s(self, scripted, picture) -> None:
        model, asked = scripted("<think> 3 chairs </think> <answer> 2.5 </answer>")
        assert ask(model, picture, mode="marker", point=(20, 12)).text == "2.5 m"
        assert asked[0][1][0]["content"] == ARROW_QUESTION

    def test_picture_and_depth_come_to_one_focal_length(self, scripted, picture) -> None:
        """Twice as large from 500 to DepthLM's 1000 pixels; each pixel of depth becomes four."""
        model, asked = scripted("far", fusion="rgbd")
        picture = picture.resize((64, 48))
        depth = np.tile(RAMP, (2, 2))
        ask(model, picture, "How far?", depth, mode="marker", point=(20, 12), focal_length=500.0)
        shown, _, seen = asked[0]
        assert shown.size == (128, 96) and shown.getpixel((39, 24)) == RED
        np.testing.assert_array_equal(seen.values[0], np.repeat(np.repeat(depth, 2, 0), 2, 1))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"point": (40, 12)}, r"\(40, 12\) is outside of the picture of 32x24"),
            ({"point": (2, 12)}, "too near to its border"),
            ({"point": (20, 12), "focal_length": 1.0}, "does not fit a picture of 32x24"),
            ({}, "marker needs a point"),
            ({"point": (20, 12), "mode": "plain"}, "belong to mode = marker"),
            ({"focal_length": 30.0, "mode": "plain"}, "belong to mode = marker"),
        ],
    )
    def test_what_does_not_fit(self, scripted, picture, options, sentence) -> None:
        model, _ = scripted()
        with pytest.raises(UserError, match=sentence):
            ask(model, picture, "How far?", **{"mode": "marker"} | options)


@pytest.mark.parametrize("mode", ["plain", "depth_tool"])
@pytest.mark.parametrize("question", [None, " "])
def test_no_question(scripted, picture, mode, question) -> None:
    model, _ = scripted()
    with pytest.raises(UserError, match="needs a question"):
        ask(model, picture, question, RAMP, mode=mode)


def test_depth_that_was_read_is_not_read_again() -> None:
    """Relative depth is scaled by its percentiles: twice would cut off more."""
    once = read_depth(RAMP, "relative_inverse")
    again = read_depth(resized(once, (32, 24)), "relative_inverse")
    np.testing.assert_array_equal(again.values, once.values)


def test_a_model_is_asked_in_every_mode(make, picture) -> None:
    """With random weights the words mean nothing; what is tested is that a conversation can be said."""
    model = make("rgbd")
    assert isinstance(model.answer(picture, "How far?", RAMP, max_new_tokens=2), str)
    assert isinstance(model.answer(picture, None, RAMP, mode="marker", point=(20, 12), max_new_tokens=2), str)
    turns = ["How far is the red car?", "Depth(0.5,0.5)", "2 m"]
    roles = ["user", "assistant", "user"]
    conversation = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    assert isinstance(model.reply(picture, conversation, RAMP, max_new_tokens=2), str)


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path, picture, scripted, monkeypatch) -> Path:
        model, self.asked = scripted("Depth(0.5,0)", "1 m behind")
        monkeypatch.setattr("fathom.vlm.saving.load_depth_vlm", lambda source, **_: model)
        picture.save(tmp_path / "photo.png")
        Image.fromarray((RAMP * 1000).astype(np.uint16)).save(tmp_path / "depth.png")
        Image.fromarray((RAMP * 1000).astype(np.uint16)[:, :16]).save(tmp_path / "half.png")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_it_prints_the_answer_and_tells_of_lookups(self, files, capsys) -> None:
        words = [
            "photo.png",
            "How far?",
            "--model",
            "m",
            "--depth",
            "depth.png",
            "--unit",
            "mm",
            "--mode",
            "depth_tool",
        ]
        assert main(["vlm", "ask", *words]) == 0
        said = capsys.readouterr()
        assert said.out == "1 m behind\n"
        assert "Depth(0.5,0): 2600 mm" in said.err

    def test_depth_that_nobody_looks_at_is_told(self, files, capsys) -> None:
        assert main(["vlm", "ask", "photo.png", "How far?", "--model", "m", "--depth", "depth.png"]) == 0
        assert "--depth changes nothing" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["photo.png", "?", "--depth", "depth.png", "--unit", "m"], "say unit=mm"),
            (["photo.png", "?", "--depth", "half.png"], "half.png has 16x24 pixels"),
            (["photo.png", "?", "--depth", "photo.png"], "3 channels"),
            (["depth.json", "?", "--depth", "depth.png"], "depth.json: there is no such picture"),
            (["photo.png", "?"], "there is none: give a depth map or an estimator"),
            (["photo.png", "?", "--unit", "mm"], "unit of --depth"),
            (["photo.png", "?", "--depth", "depth.png", "--estimator", "transformers"], "give one of them"),
            (["photo.png", "?", "--weights", "small"], "for no estimator"),
            (["photo.png", "?", "--estimator", "sonar"], "no estimator 'sonar'"),
            (["photo.png", "--depth", "depth.png"], "needs a question"),
        ],
    )
    def test_bad_input_is_one_sentence(self, files, capsys, words, sentence) -> None:
        assert main(["vlm", "ask", *words, "--model", "m", "--mode", "depth_tool"]) == 2
        said = capsys.readouterr().err.strip()
        assert sentence in said and "\n" not in said

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["?", "--max-new-tokens", "0"], "max_new_tokens is 0: an answer needs at least 1"),
            (["?", "--max-new-tokens", "-3"], "max_new_tokens is -3"),
            (["--mode", "marker", "--point", "nan", "3"], "the point (nan, 3) is no place in a picture"),
            (["--mode", "marker", "--point", "5", "inf"], "the point (5, inf) is no place in a picture"),
            (["--mode", "marker"], "marker needs a point"),
            ([], "needs a question"),
        ],
    )
    def test_what_no_model_can_be_asked_is_refused_before_one_is_loaded(
        self, files, capsys, monkeypatch, words, sentence
    ) -> None:
        monkeypatch.setattr("fathom.vlm.saving.load_depth_vlm", lambda *_, **__: pytest.fail("a model was loaded"))
        assert main(["vlm", "ask", "photo.png", *words, "--model", "m"]) == 2
        said = capsys.readouterr().err.strip()
        assert sentence in said and "\n" not in said
