"""What is known of LIBERO without loading it, against LIBERO itself."""

import pytest

from fathom.simulation.libero.assets import bddl_file, config_folder, initial_states
from fathom.simulation.libero.suite import LIBERO_SUITES
from fathom.simulation.libero.tasks import INITIAL_STATES, STEP_LIMITS, TASKS, instruction


def test_the_published_counts_and_limits() -> None:
    assert {suite: len(tasks) for suite, tasks in TASKS.items()} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    assert len({task for tasks in TASKS.values() for task in tasks}) == 130
    assert STEP_LIMITS == {
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
    }


def test_the_scene_is_no_part_of_the_sentence() -> None:
    assert instruction("pick_up_the_milk_and_place_it_in_the_basket") == "pick up the milk and place it in the basket"
    assert instruction("KITCHEN_SCENE3_turn_on_the_stove") == "turn on the stove"
    assert instruction("LIVING_ROOM_SCENE2_pick_up_the_butter") == "pick up the butter"
    assert instruction("KITCHEN_SCENE10_close_the_top_drawer") == "close the top drawer"


def test_suites_know_their_tasks_without_a_simulator() -> None:
    spatial = next(suite for suite in LIBERO_SUITES if suite.name == "libero_spatial")
    task = spatial.task(0)
    assert spatial.instructions[task] == (
        "pick up the black bowl between the plate and the ramekin and place it on the plate"
    )
    assert spatial.robot.cameras == ("main", "wrist")
    assert len(spatial.robot.state_names) == 8 and spatial.robot.action_names[-1] == "gripper"


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.usefixtures("libero")
def test_names_order_and_sentences_are_liberos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(config_folder()))
    from libero.libero.benchmark import get_benchmark

    for suite, tasks in TASKS.items():
        official = get_benchmark(suite)()
        assert tuple(official.get_task_names()) == tasks
        assert [official.get_task(index).language for index in range(len(tasks))] == [
            instruction(task) for task in tasks
        ]


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.usefixtures("libero")
def test_every_task_has_its_definition_and_fifty_recorded_states() -> None:
    for suite, tasks in TASKS.items():
        for task in tasks:
            assert bddl_file(suite, task).is_file()
            assert len(initial_states(suite, task)) == INITIAL_STATES


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.usefixtures("libero")
def test_recorded_states_are_those_that_torch_reads() -> None:
    import torch

    task = TASKS["libero_goal"][3]
    path = bddl_file("libero_goal", task).parents[2] / "init_files" / "libero_goal" / f"{task}.pruned_init"
    expected = torch.load(path, weights_only=False)  # as LIBERO does; the file is the package's own
    assert (initial_states("libero_goal", task) == expected).all()
