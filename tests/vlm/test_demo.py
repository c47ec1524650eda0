"""The web page of `fathom vlm demo`: what it does, and that it does it in a browser."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from fathom.cli.main import main
from fathom.errors import UserError
from fathom.vlm.demo import Desk, depth_picture
from fathom.vlm.demo_page import serve
from fathom.vlm.depth_input import read_depth
from fathom.vlm.model import DepthVLM

MILLIMETRES = np.full((60, 80), 3000, np.uint16)
MILLIMETRES[20:40, 30:50] = 1500
MILLIMETRES[:10, :10] = 0
"""Something at 1.5 m before a wall at 3 m, and a corner of which nothing is known."""


@pytest.fixture
def family() -> str:
    """The page is the same for both."""
    return "qwen2_5_vl"


@pytest.fixture
def model(make, monkeypatch) -> DepthVLM:
    """It looks up the middle of the picture where it is told that it may, and says what it sees at once elsewhere."""
    model = make("rgbd")

    def reply(image: Image.Image, conversation: list[dict[str, str]], depth: Any = None, **_: Any) -> str:
        asked = conversation[-1]["content"]
        return "Depth(0.5,0.5)" if "Depth(x,y)" in asked else f"I was told: {asked}"

    monkeypatch.setattr(model, "reply", reply)
    return model


@pytest.fixture
def files(tmp_path) -> Path:
    Image.new("RGB", (80, 60), (20, 90, 200)).save(tmp_path / "photo.png")
    Image.fromarray(MILLIMETRES).save(tmp_path / "depth.png")
    Image.fromarray(MILLIMETRES[:, :40].copy()).save(tmp_path / "half.png")
    return tmp_path


class TestDesk:
    def test_a_point_has_its_depth(self, model, files) -> None:
        desk = Desk(model)
        seen = desk.look(Image.open(files / "photo.png"), files / "depth.png")
        assert "1.50 to 3.00 m" in seen.caption()
        assert desk.choose(seen, 40, 30).caption() == "Depth at (40, 30): 1.50 m."
        assert desk.choose(seen, 99, 99).caption() == "Depth at (79, 59): 3.00 m."
        assert "3.00 m, that of the nearest pixel that is known" in desk.choose(seen, 0, 0).caption()

    def test_near_is_red_far_is_blue_and_unknown_is_grey(self) -> None:
        shown = depth_picture(read_depth(MILLIMETRES, "metric"))
        near, far = np.array(shown.getpixel((40, 30)), int), np.array(shown.getpixel((70, 50)), int)
        assert near[0] > near[2] and far[2] >= far[0]
        assert shown.getpixel((2, 2)) == (128, 128, 128)

    def test_the_point_is_drawn(self, model, files) -> None:
        seen = Desk(model).look(Image.open(files / "photo.png"), files / "depth.png")
        view = Desk(model).choose(seen, 60, 15).view()
        assert view.getpixel((60, 15)) == (255, 255, 255) and seen.view().getpixel((60, 15)) != (255, 255, 255)

    def test_a_picture_without_depth_is_shown_itself(self, model, files) -> None:
        seen = Desk(model).look(Image.open(files / "photo.png"))
        assert seen.depth is None and seen.view().getpixel((1, 1)) == (20, 90, 200) and seen.caption() == ""
        assert "not known" in Desk(model).choose(seen, 3, 3).caption()

    def test_it_is_asked_in_every_mode(self, model, files) -> None:
        desk = Desk(model)
        seen = desk.look(Image.open(files / "photo.png"), files / "depth.png")
        assert desk.answer(seen, "How far?", "plain") == "I was told: How far?"
        assert desk.answer(seen, "How far?", "depth_tool") == "I was told: 1500 mm\n· looked up Depth(0.5,0.5): 1500 mm"
        assert "red arrow" in desk.answer(desk.choose(seen, 40, 30), "", "marker")
        with pytest.raises(UserError, match="click one first"):
            desk.answer(seen, "How far?", "marker")


def browser() -> str:
    """Chromium's program; skips the test where it is missing."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    return found


@pytest.mark.slow
def test_the_page_in_a_browser(model, files) -> None:
    program = browser()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = serve(Desk(model), port=port, block=False)
    with pytest.raises(UserError, match=f"port {port} is taken"):
        serve(Desk(model), port=port, block=False)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        asked_elsewhere: list[str] = []
        page.on("request", lambda one: asked_elsewhere.append(one.url))
        page.goto(address)
        caption, message, answer = page.locator("#caption"), page.locator("#message"), page.locator("#answer textarea")

        page.locator("#ask").click()
        expect(message).to_contain_text("bring a picture")

        page.locator("#picture input[type=file]").set_input_files(files / "photo.png")
        expect(page.locator("#view img")).to_be_visible()
        page.locator("#question textarea").fill("How far is the wall?")
        page.locator("#depth input[type=file]").set_input_files(files / "half.png")
        expect(message).to_contain_text("half.png has 40x60 pixels and the picture 80x60")
        assert "/" not in message.inner_text()

        page.locator("#depth button[aria-label=Clear], #depth button[aria-label=Remove]").first.click()
        page.locator("#depth input[type=file]").set_input_files(files / "depth.png")
        expect(caption).to_contain_text("1.50 to 3.00 m")
        expect(message).to_have_text("")
        page.get_by_role("radio", name="m", exact=True).check()
        expect(message).to_contain_text("say unit=mm")
        page.get_by_role("radio", name="mm", exact=True).check()
        expect(caption).to_contain_text("1.50 to 3.00 m")

        page.locator("#view img").click()  # its middle
        expect(caption).to_contain_text("1.50 m.")
        box = page.locator("#picture img").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2 + 25, box["y"] + box["height"] / 2 + 15)  # shown pixel by pixel
        expect(caption).to_contain_text("3.00 m.")

        page.get_by_role("radio", name="Depth tool").check()
        page.locator("#ask").click()
        expect(answer).to_have_value("I was told: 1500 mm\n· looked up Depth(0.5,0.5): 1500 mm")
        assert all("127.0.0.1" in url or url.startswith(("data:", "blob:")) for url in asked_elsewhere)
        page.screenshot(path=files / "page.png", full_page=True)
        chromium.close()


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_a_port_that_does_not_exist_is_refused_before_a_model_is_loaded(model, monkeypatch, capsys, port) -> None:
    monkeypatch.setattr("fathom.vlm.saving.load_depth_vlm", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["vlm", "demo", "--model", "m", "--port", str(port)]) == 2
    said = capsys.readouterr().err.strip()
    assert f"port {port} does not exist" in said and "\n" not in said
    with pytest.raises(UserError, match=f"port {port} does not exist"):
        serve(Desk(model), port=port, block=False)


def test_without_gradio_the_page_says_what_to_install(model, monkeypatch) -> None:
    from fathom.vlm.demo_page import serve

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"needs gradio: pip install 'fathom-vla\[demo\]'"):
        serve(Desk(model), port=7860)
