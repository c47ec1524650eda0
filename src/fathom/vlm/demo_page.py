"""The web page of `fathom vlm demo`, in gradio: widgets, and which of `fathom.vlm.demo`'s functions they call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from fathom.errors import UserError
from fathom.vlm.ask import Mode
from fathom.vlm.demo import Desk, Seen
from fathom.vlm.depth_input import Unit

MODES: dict[str, Mode] = {
    "Plain": "plain",
    "Depth tool: the model may look up depths": "depth_tool",
    "Marker: an arrow shows the point": "marker",
}
UNITS: dict[str, Unit | None] = {"auto": None, "mm": "mm", "m": "m"}

_NOTHING = "There is no picture with depth that fits it: bring a picture, and mend or remove its depth."

_STYLE = """
#message { color: var(--error-text-color, #b91c1c); font-weight: 600; min-height: 1.5em; }
.gradio-container { max-width: 1100px !important; margin: auto; }
"""


def serve(desk: Desk, *, port: int, block: bool = True) -> str:
    """Show the page on this machine alone, until it is interrupted.

    Args:
        block: wait for the interruption; otherwise the page is served by a thread.

    Returns:
        its address.

    Raises:
        UserError: gradio is not installed, or the port is taken or none.
    """
    import os

    check_port(port)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs gradio: pip install 'fathom-vla[demo]'") from None
    fonts = ["system-ui", "sans-serif"]  # the reader's own: nothing is fetched from elsewhere
    page = build(desk)
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gradio.themes.Default(font=fonts, font_mono=["monospace"]),
            css=_STYLE,
            footer_links=[],
        )
    except OSError:
        raise UserError(f"port {port} is taken: name another one with --port") from None
    if block:
        print(f"open {address} in a browser; end with Ctrl-C", flush=True)
        page.block_thread()
    return str(address)


def check_port(port: int) -> None:
    """Refuse a number that is none of a port, before a model is loaded.

    Raises:
        UserError: it is below 1 or above 65535.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"port {port} does not exist: name one from 1 to 65535 with --port")


def build(desk: Desk) -> Any:
    """The page, not yet served: a ``gradio.Blocks``."""
    import gradio as gr

    with gr.Blocks(title="Fathom", analytics_enabled=False) as page:
        gr.Markdown("# Ask a picture how far things are\nBring a picture, click a point, ask a question.")
        seen = gr.State(None)
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    type="pil", label="Picture", elem_id="picture", sources=["upload", "clipboard"], height=360
                )
                with gr.Row():
                    depth = gr.File(label="Its depth: 16-bit PNG or .npy", elem_id="depth", height=110, scale=3)
                    unit = gr.Radio(list(UNITS), value=next(iter(UNITS)), label="Unit of the depth", scale=2)
            with gr.Column():
                view = gr.Image(label="Depth", elem_id="view", interactive=False, buttons=[], height=360, format="png")
                caption = gr.Markdown(elem_id="caption")
        message = gr.Markdown(elem_id="message")
        with gr.Row():
            question = gr.Textbox(
                label="Question", elem_id="question", placeholder="How far is the yellow car?", scale=3
            )
            mode = gr.Radio(list(MODES), value="Plain", label="How it is asked", scale=2)
        button = gr.Button("Ask", variant="primary", elem_id="ask")
        answer = gr.Textbox(label="Answer", interactive=False, lines=3, elem_id="answer")

        shown = [seen, view, caption, message]
        looking = (_looking(desk), [picture, depth, unit], shown)
        for event in (picture.change, depth.change, unit.change):
            event(*looking)
        for widget in (picture, view):
            widget.select(_choosing(desk, gr.SelectData), [seen], shown)
        for event in (button.click, question.submit):
            event(_answering(desk), [seen, question, mode], [answer, message])
    return page


Shown = tuple[Seen | None, Image.Image | None, str, str]


def _looking(desk: Desk) -> Callable[..., Shown]:
    def look(picture: Image.Image | None, depth: str | None, unit: str) -> Shown:
        if picture is None:
            return None, None, "", ""
        try:
            return _shown(desk.look(picture, Path(depth) if depth else None, UNITS[unit] if depth else None))
        except UserError as error:
            return None, None, "", str(error).replace(f"{depth}", Path(depth or "").name)  # not where the page put it

    return look


def _choosing(desk: Desk, selection: type) -> Callable[..., Shown]:
    def choose(seen: Seen | None, clicked: Any) -> Shown:
        if seen is None:
            return None, None, "", _NOTHING
        return _shown(desk.choose(seen, *clicked.index))

    choose.__annotations__["clicked"] = selection  # by this gradio knows which argument is the click
    return choose


def _answering(desk: Desk) -> Callable[..., tuple[str, str]]:
    def answer(seen: Seen | None, question: str, mode: str) -> tuple[str, str]:
        if seen is None:
            return "", _NOTHING
        try:
            return desk.answer(seen, question, MODES[mode]), ""
        except UserError as error:
            return "", str(error)

    return answer


def _shown(seen: Seen) -> Shown:
    return seen, seen.view(), seen.caption(), ""
