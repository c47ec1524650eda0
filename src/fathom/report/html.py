"""The few pieces of HTML that the report is made of. Whatever is text goes through :func:`text`."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

COLOUR_OF = {"qdepth_vla": "blue", "pi0": "orange", "blind": "purple", "expert": "green", "random": "quiet"}
"""The CSS colour of each policy."""

_PAGE = Path(__file__).with_name("page.html")


def text(value: object) -> str:
    """Plain text as HTML."""
    return escape(str(value))


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document; its style stands in ``page.html``."""
    return Template(_PAGE.read_text()).substitute(title=text(title), body="\n".join(parts))


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it."""
    return f"<section>\n<h2>{text(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text; ``kind`` is its CSS class."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", total: bool = False) -> str:
    """A table of HTML cells; with ``total`` its last row is set off."""
    body = [_row(row) for row in rows]
    if total and body:
        body[-1] = body[-1].replace("<tr>", '<tr class="total">', 1)
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{top}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def success_cell(count: Mapping[str, float], colour: str) -> str:
    """A success rate in numbers and as a bar with its interval."""
    rate, low, high = (100 * count[name] for name in ("rate", "low", "high"))
    return (
        f'<b>{rate:.0f} %</b><div class="bar"><i style="width:{rate:.1f}%;background:var(--{colour})"></i>'
        f'<u style="left:{low:.1f}%;width:{high - low:.1f}%"></u></div>'
        f"<small>{count['successes']:.0f}/{count['n']:.0f} · {low:.0f}–{high:.0f} %</small>"
    )


def dot(colour: str) -> str:
    """A dot in a policy's colour."""
    return f'<span class="dot" style="background:var(--{colour})"></span>'


def clip(video: bytes, caption: str, success: bool) -> str:
    """A silent film that plays by itself, over and over."""
    outcome = '<span class="yes">✓ success</span>' if success else '<span class="no">✗ failure</span>'
    return (
        f'<figure><video autoplay muted loop playsinline src="{data_uri(video, "video/mp4")}"></video>'
        f"<figcaption>{text(caption)}<br>{outcome}</figcaption></figure>"
    )


def panel(title: str, svg: str) -> str:
    """One figure among others."""
    return f"<figure><h3>{text(title)}</h3>{svg}</figure>"


def visibility_table(blocks: Mapping[str, int], cells: Sequence[Sequence[int]], colours: Mapping[str, str]) -> str:
    """A block matrix: who reads (rows) whom (columns).

    Args:
        blocks: each block's number of tokens.
        cells: 0 where a block is not read, 1 where it is, 2 where it is read causally.
        colours: each row's CSS colour.
    """
    rows = []
    for (name, tokens), row in zip(blocks.items(), cells, strict=True):
        head = f'<th scope="row">{text(name)} <small>{tokens}</small></th>'
        rows.append(f"<tr>{head}{''.join(_seen(degree, colours[name]) for degree in row)}</tr>")
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in blocks)
    return (
        f'<div class="wide"><table class="reads"><thead><tr><th><small>reads →</small></th>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def data_uri(content: bytes, mime: str) -> str:
    """Bytes that travel inside the page."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def _seen(degree: int, colour: str) -> str:
    fill = f"var(--{colour})"
    style = ("", f"background:{fill}", f"background:linear-gradient(to top right, {fill} 50%, transparent 50%)")[degree]
    return f'<td style="{style}" aria-label="{("not read", "read", "read causally")[degree]}"></td>'
