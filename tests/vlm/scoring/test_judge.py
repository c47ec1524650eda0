"""The judge by rules. The marked examples are worded like those that the benchmarks give their judge."""

import pytest

from fathom.vlm.scoring.judge import agrees, polarity

LEFT = "Is the bed to the left of the curtain?"
TALLER = "Between the wooden table and the black chair, which one is taller?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes, it is.", True),
        ("Indeed, the bed is on the left.", True),
        ("That is true.", True),
        ("No.", False),
        ("Incorrect, it is not.", False),
        ("That is not correct", False),
        ("It isn't.", False),
        ("There is no lamp.", False),
        ("I cannot tell.", None),
        ("I don't know", None),
        ("Not sure", None),
        ("The table.", None),
        ("North of it", None),
    ],
)
def test_yes_or_no(text: str, said: bool | None) -> None:
    assert polarity(text) is said


@pytest.mark.parametrize(
    ("question", "answer", "response", "right"),
    [
        (LEFT, "Indeed, the bed is to the left.", "Yes, it is positioned on the left side.", True),
        (LEFT, "Indeed, the bed is to the left.", "In fact, the bed is to the right of the curtain.", False),
        (LEFT, "Incorrect, it is not on the left.", "In fact, the bed is to the right of the curtain.", True),
        (LEFT, "Yes.", "The curtain is to the right of the bed.", True),  # the same, said the other way round
        (LEFT, "Yes.", "The curtain is to the left of the bed.", False),
        (LEFT, "Yes.", "I cannot tell.", None),
        (TALLER, "The wooden table is taller.", "The chair.", False),
        (TALLER, "The wooden table is taller.", "The table", True),
        (TALLER, "The wooden table is taller.", "The wooden table is taller than the black chair.", True),
        (TALLER, "The wooden table is taller.", "the table, not the chair", True),
        (TALLER, "The wooden table is taller.", "the table and the chair alike", False),
        ("Who is taller, Region [0] or Region [1]?", "Region [0].", "Standing taller is Region [1].", False),
        ("Who is taller, Region [0] or Region [1]?", "With more height is Region [0].", "Region [0]", True),
        ("Where is the lamp?", "The lamp is to the left and behind.", "on the left, behind it", True),
        ("Where is the lamp?", "The lamp is to the left and behind.", "on the left", False),
        ("Is it left or right of the door?", "left", "It is on the left side", True),
        ("Is it left or right of the door?", "left", "left or right", False),
        ("How high is the unicorn?", "There is no unicorn in the image.", "It doesn't exist here.", True),
        ("How high is the unicorn?", "There is no unicorn in the image.", "The unicorn is 1.2 m high.", None),
    ],
)
def test_a_response_against_the_answer(question: str, answer: str, response: str, right: bool | None) -> None:
    assert agrees(question, answer, response) is right
