"""The page: whole, self-contained, escaped, and without what is not there."""

import base64
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.report import write_report

from .conftest import CLIP

SECTIONS = {
    "eval": ["Success in closed loop", "Roll-outs"],
    "dataset": ["Depth that the policy predicts", "Demonstrations"],
    "policy": ["Depth that the policy predicts", "Who reads whom: dreamvla visibility"],
    "tokenizer": ["Depth tokenizer"],
}
"""What goes missing with a part of the run."""


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    copy = Path(shutil.copytree(finished, tmp_path_factory.mktemp("page") / "quickstart"))
    path = write_report(copy)
    assert path == copy / "report.html"
    return path.read_text()


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    return lambda: Path(shutil.copytree(finished, tmp_path / "copy"))


class _Reader(HTMLParser):
    """The tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "h2":
            self.headings.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.headings and not self.headings[-1]:
            self.headings[-1] = data


def test_it_shows_every_part_in_order(page: str) -> None:
    assert _Reader(page).headings == [
        "Success in closed loop",
        "Roll-outs",
        "Depth that the policy predicts",
        "Who reads whom: dreamvla visibility",
        "Training",
        "Demonstrations",
        "Depth tokenizer",
        "Configuration",
        "Make it again",
    ]


@pytest.mark.parametrize(
    "told",
    [
        "69 % of 16 held-out episodes of 2 tasks (95 % interval 44–86 %)",  # the verdict
        "7/8 · 53–98 %",  # a cell
        "16/16 · 81–100 %",
        "4 of 5",  # demonstrations
        "0.042",  # the tokenizer
        "95.1 %",
        "0.0875",  # settings
        "9.8.7",  # versions
        "fathom quickstart --compare --out",
    ],
)
def test_it_tells_the_numbers(page: str, told: str) -> None:
    assert told in _Reader(page).text.replace("\N{NO-BREAK SPACE}", " ")


def test_it_asks_for_nothing_from_elsewhere(page: str) -> None:
    names = {"src", "href", "xlink:href", "srcset", "poster", "data"}
    references = [attrs[name] for _, attrs in _Reader(page).tags for name in names & set(attrs)]
    references += re.findall(r"url\(([^)]*)\)", page)
    outside = [one for one in references if not one.startswith(("data:", "#"))]
    assert references and not outside
    assert "@import" not in page


def test_its_data_decodes(page: str) -> None:
    uris = re.findall(r"data:([\w/]+);base64,\s*([^\"')]+)", page)
    decoded = [(mime, base64.b64decode(re.sub(r"\s", "", content), validate=True)) for mime, content in uris]
    assert [content for mime, content in decoded if mime == "video/mp4"] == [CLIP, CLIP]
    pictures = [content for mime, content in decoded if mime == "image/png"]
    assert len(pictures) >= 8 and all(content.startswith(b"\x89PNG") for content in pictures)


def test_text_is_escaped(page: str) -> None:
    assert "script" not in {tag for tag, _ in _Reader(page).tags}
    assert "a <script> task" in _Reader(page).text  # from the results
    assert "$door$" in _Reader(page).text  # in the depth pictures, and no formula


@pytest.mark.parametrize("part", SECTIONS)
def test_what_is_missing_is_left_out(part: str, copy: Callable[[], Path], page: str) -> None:
    folder = copy()
    shutil.rmtree(folder / part)
    headings = _Reader(write_report(folder).read_text()).headings
    assert set(_Reader(page).headings) - set(headings) == set(SECTIONS[part])


def test_a_run_that_has_only_begun(copy: Callable[[], Path]) -> None:
    folder = copy()
    for part in (*SECTIONS, "compare"):
        shutil.rmtree(folder / part)
    reader = _Reader(write_report(folder).read_text())
    assert "not been evaluated yet" in reader.text
    assert reader.headings == ["Configuration", "Make it again"]
    assert "--compare" not in reader.text


def test_a_line_that_is_still_being_written_is_not_read(copy: Callable[[], Path]) -> None:
    folder = copy()
    with (folder / "policy" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "action_l')
    assert "Action loss" in write_report(folder).read_text()


def test_another_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"policy": {}, "training": {}}')
    for folder in (tmp_path, tmp_path / "nowhere", finished / "policy"):
        with pytest.raises(UserError, match="is no quickstart run and no training"):
            write_report(folder)
        assert not (folder / "report.html").exists()
