"""Conversations in the layouts of MSMU, SpatialQA, TRL and our own questions."""

import json

import pytest
from PIL import Image

from fathom.errors import UserError
from fathom.vlm.conversations import read_conversations


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a_d.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def write(folder, *entries, name="talk.json"):
    text = json.dumps(entries) if name.endswith(".json") else "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / name).write_text(text)
    return folder / name


def said(*turns):
    return tuple({"role": role, "content": text} for role, text in turns)


def test_msmu_and_spatialqa(folder):
    msmu = {"id": 1, "image": "b.png"}
    msmu["conversations"] = [{"from": "human", "value": "<image>\nHow tall?"}, {"from": "gpt", "value": "1 m."}]
    pair = {"image": ["a.jpg", "a_d.png"], "unit": "mm"}
    pair["conversations"] = [
        {"from": "human", "value": "<image 1>\n<image 2>\nWhere is it?"},
        {"from": "gpt", "value": "Left."},
        {"from": "human", "value": "How far?"},
        {"from": "gpt", "value": "2 m."},
    ]
    first, second = read_conversations(write(folder, msmu, pair))
    assert (first.image, first.depth, first.unit) == (folder / "b.png", None, None)
    assert first.messages == said(("user", "How tall?"), ("assistant", "1 m."))
    assert (second.image, second.depth, second.unit) == (folder / "a.jpg", folder / "a_d.png", "mm")
    assert second.messages == said(
        ("user", "Where is it?"), ("assistant", "Left."), ("user", "How far?"), ("assistant", "2 m.")
    )


def test_our_questions_and_trl_by_the_line(folder, tmp_path_factory):
    ours = {"image": "b.png", "depth": "a_d.png", "question": "How far?", "answer": "3 m.", "kind": "camera_distance"}
    trl = {"image": "a.jpg", "messages": [*said(("system", "Be brief."), ("user", "Which?"), ("assistant", "This."))]}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    one, other = read_conversations(write(elsewhere, ours, trl, name="talk.jsonl"), images=folder)
    assert (one.image, one.depth) == (folder / "b.png", folder / "a_d.png")
    assert one.messages == said(("user", "How far?"), ("assistant", "3 m."))
    assert other.messages[0] == {"role": "system", "content": "Be brief."} and other.depth is None


GOOD = {"image": "b.png", "question": "How far?", "answer": "3 m."}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"question": "How far?", "answer": "3 m."}, "entry 2: 'image' is null, expected the path of a picture"),
        ({"image": "b.png", "question": "How far?"}, "entry 2: has no field 'answer'"),
        ({"image": ["a", "b", "c"], "question": "?", "answer": "!"}, "'image' is"),
        ({**GOOD, "depth": 3}, "'depth' is 3, expected the path of a depth map"),
        ({**GOOD, "unit": "cm"}, "'unit' is"),
        ({"image": "b.png", "conversations": [{"from": "human", "value": "Hi"}]}, "does not end with the assistant"),
        ({"image": "b.png", "conversations": [{"from": "robot", "value": "Hi"}]}, "such as human and gpt"),
        ({"image": "b.png", "messages": [{"role": "user"}]}, "such as user and assistant"),
        ({**GOOD, "image": "none.png"}, "1 of its 2 pictures are missing, such as"),
    ],
)
def test_what_is_missing_is_named(folder, entry, told):
    path = write(folder, GOOD, entry)
    with pytest.raises(UserError) as error:
        read_conversations(path)
    assert str(path) in str(error.value) and told in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"), [("{", "is not JSON"), ("{}", "expected a list"), ("[]", "expected a list")]
)
def test_files_that_hold_none(tmp_path, content, told):
    (tmp_path / "talk.json").write_text(content)
    with pytest.raises(UserError, match=told):
        read_conversations(tmp_path / "talk.json")
    with pytest.raises(UserError, match="there is no such file"):
        read_conversations(tmp_path / "nowhere.json")
