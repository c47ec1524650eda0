"""Questions about a frame of LIBERO, whose camera tells how it sees."""

import os
import re

import numpy as np
import pytest

from fathom.errors import UserError
from fathom.simulation.cameras import main_view
from fathom.simulation.demonstrations import Style
from fathom.vlm.questions import View, look, make_questions

TASK = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"


@pytest.fixture
def libero() -> None:
    """Skips where LIBERO cannot run."""
    from fathom.simulation.libero.assets import SETTING, package

    try:
        package()
    except UserError as error:
        pytest.skip(str(error))
    if not os.environ.get(SETTING):
        pytest.skip(f"{SETTING} is not set")


@pytest.mark.slow
@pytest.mark.libero
def test_a_frame_of_libero_is_asked_about(libero) -> None:
    style = Style(128, label_names=("any",))  # with segmentation
    view = main_view("libero_object", TASK, style)
    assert view is not None and 0 < view["tilt"] < 90 and 20 < view["fovy"] < 90
    env = style.environment("libero_object", TASK)
    env.restart(0)
    seen = env.observe()
    names = dict(enumerate(env.segmentation_names))
    scene = look(seen["depth"]["main"], seen["segmentation"]["main"], names, View(**view))
    env.close()
    assert {"alphabet soup", "basket"} & {thing.name for thing in scene.things}
    assert all(0.2 < thing.extent.distance < 3 for thing in scene.things)  # a table-top seen by a camera at its edge
    questions = make_questions(scene, 20, np.random.default_rng(0))
    assert len({question.kind for question in questions}) >= 4
    assert not any(re.search(r"_|\w\d+\b", " ".join(question.objects)) for question in questions)
