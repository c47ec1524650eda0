"""The page that shows a dataset's episodes."""

import re

import pytest

from fathom.cli.main import main
from fathom.data.dataset import open_dataset
from fathom.errors import UserError
from fathom.report.inspect import write_contact_sheet


def test_it_shows_pictures_depth_codes_actions_and_instruction(finished, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert (
        main(["inspect", str(finished / "dataset"), "--tokenizer", str(finished / "tokenizer"), "--out", str(out)]) == 0
    )
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text()
    dataset = open_dataset(finished / "dataset")
    assert len(re.findall("<h2>Episode", page)) == min(3, dataset.info.total_episodes)
    assert ">main<" in page and ">main_depth<" in page and "codes of main_depth" in page
    assert page.count("<svg") == min(3, dataset.info.total_episodes)  # the actions
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from elsewhere


def test_chosen_episodes_and_frames(finished, tmp_path):
    write_contact_sheet(finished / "dataset", tmp_path / "page.html", episodes=[1], frames=1)
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"<h2>Episode (\d+)", page) == ["1"]
    assert page.count("<img") == 2  # colour and depth of one frame


def test_an_episode_that_is_not_there(finished, tmp_path):
    with pytest.raises(UserError, match="there is no episode 99"):
        write_contact_sheet(finished / "dataset", tmp_path / "page.html", episodes=[99])
    with pytest.raises(UserError, match="frames is 0"):
        write_contact_sheet(finished / "dataset", tmp_path / "page.html", frames=0)
    assert not (tmp_path / "page.html").exists()
