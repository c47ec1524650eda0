"""Worker processes: who answers what, and what happens when one dies."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fathom.errors import UserError
from fathom.workers import Call, Workers


def twice(value: object) -> object:
    return value + value  # type: ignore[operator]


def die(code: int) -> None:
    time.sleep(0.5)  # what else is sent to it is on its way before it is gone
    os._exit(code)


def refuse(sentence: str) -> None:
    raise UserError(sentence)


@pytest.fixture(scope="module")
def workers():
    with Workers(2, revive=True) as found:
        yield found


def test_answers_carry_the_keys_of_their_calls(workers: Workers) -> None:
    answers = {answer.key: answer.value for answer in workers.map(Call(n, twice, (n,)) for n in range(7))}
    assert answers == {n: 2 * n for n in range(7)}


@pytest.mark.parametrize("kind", ["float32", "uint8", "bool", "<U3", "datetime64[s]"])
def test_arrays_cross_with_type_and_shape(workers: Workers, kind: str) -> None:
    sent = np.arange(6).reshape(2, 3).astype(kind)
    workers.send(0, Call("a", np.array, (sent,)))
    received = workers.receive()[1].value
    assert received.dtype == sent.dtype
    np.testing.assert_array_equal(received, sent)
    received[0] = received[1]  # it may be written to


def test_scalars_stay_scalars(workers: Workers) -> None:
    workers.send(0, Call("s", twice, (np.float32(1.5),)))
    value = workers.receive()[1].value
    assert isinstance(value, np.float32)
    assert value == 3


def test_an_exception_is_told_by_its_traceback(workers: Workers) -> None:
    workers.send(1, Call("bad", twice, (None,)))
    worker, answer = workers.receive()
    assert (worker, answer.key, answer.value) == (1, "bad", None)
    assert answer.error is not None
    assert "TypeError" in answer.error


def test_a_users_mistake_is_raised_here(workers: Workers) -> None:
    workers.send(0, Call("mistake", refuse, ("no such camera",)))
    with pytest.raises(UserError, match="no such camera"):
        workers.receive()


def test_a_dead_process_is_replaced_and_only_its_own_calls_are_gone(workers: Workers) -> None:
    workers.send(0, Call("fatal", die, (7,)))
    workers.send(0, Call("behind", twice, (1,)))
    workers.send(1, Call("beside", twice, (2,)))
    answers = {answer.key: answer for _, answer in (workers.receive() for _ in range(3))}
    assert "exit code 7" in (answers["fatal"].error or "")
    assert answers["behind"][1:] == (None, None), "lost, by no fault of its own"
    assert answers["beside"].value == 4
    workers.send(0, Call("again", twice, (3,)))
    assert workers.receive()[1].value == 6


def test_without_revival_a_dead_process_ends_the_work() -> None:
    with Workers(1) as workers:
        workers.send(0, Call("fatal", die, (3,)))
        with pytest.raises(RuntimeError, match="exit code 3"):
            workers.receive()


def test_an_interpreter_that_cannot_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be run as a Python interpreter"):
        Workers(1, tmp_path / "nothing")


def test_another_interpreter_sees_fathom_and_nothing_else_of_ours() -> None:
    with Workers(1, sys.executable) as workers:
        workers.send(0, Call("path", os.getenv, ("PYTHONPATH",)))
        (folder,) = str(workers.receive()[1].value).split(os.pathsep)
        assert [path.name for path in Path(folder).iterdir()] == ["fathom"]
