"""What a verb is: options as fields, and a ``run()``."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, fields, is_dataclass, replace
from io import StringIO
from types import NoneType
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_type_hints

import tyro

Config = TypeVar("Config")

# How options look: a switch is `--toy` without a `--no-toy` beside it, and a positional shows its own name.
STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)


class Verb(Protocol):
    """A frozen dataclass whose fields are the command's options and whose docstring is its one line of help.

    ``run()`` imports what it needs inside itself, because torch and transformers take seconds and ``fathom --help``
    must not. It returns the exit code: None or 0 for done, 1 for a check that failed. Bad input is a ``UserError``.
    """

    def run(self) -> int | None: ...


@dataclass(frozen=True)
class Group:
    """Verbs under one word, as in ``fathom tokenizer train``."""

    help: str
    verbs: Mapping[str, type[Verb]]


# The type of a field, named ``settings``, that takes the arguments which the verb itself does not know: the fields of
# a recipe, known only once ``--recipe`` is read. Turn them into a configuration with `with_settings`.
Settings = Annotated[tuple[str, ...], tyro.conf.Suppress]


class RecipeVerb(Verb, Protocol):
    """A verb whose options go on with the fields of the recipe that its option ``--recipe`` names."""

    recipe: str
    settings: Settings

    @staticmethod
    def recipe_called(name: str) -> Any:
        """The recipe; a UserError if there is none of that name."""


def with_settings(config: Config, settings: tuple[str, ...], command: str) -> Config:
    """``config`` with the fields that ``settings`` names replaced: ``("--steps", "100", "--optimizer.lr", "1e-4")``.

    A part that may be left out is left out by ``--policy.depth none``, and put in by naming a field of it.
    An unknown field or a value of the wrong type ends the command with code 2, naming the nearest fields; ``--help``
    explains the fields. ``command`` is what the user typed so far, for these messages.
    """
    explain = not {"-h", "--help"}.isdisjoint(settings)
    rest = list(settings)
    for path, part in _optional_parts(type(config)):
        if _take_none(rest, path):
            config = _replaced(config, path, None)
        elif _at(config, path) is None and (explain or any(_name(word).startswith(f"{path}.") for word in rest)):
            config = _replaced(config, path, part())
    style = (*STYLE, tyro.conf.AvoidSubcommands)
    with said_once():
        return tyro.cli(type(config), default=config, args=rest, prog=command, config=style)


def is_first_process() -> bool:
    """Whether this process is the one of a run's that says what is wrong; alone, it is."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def said_once() -> Iterator[None]:
    """All processes of a run read the same options: what is wrong with them the first one says."""
    with nullcontext() if is_first_process() else redirect_stderr(StringIO()):
        yield


def _optional_parts(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names of all fields of a dataclass that hold another dataclass or ``None``, and which dataclass."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        members = get_args(hints[field.name]) or (hints[field.name],)
        for part in filter(is_dataclass, members):
            if NoneType in members:
                yield prefix + field.name, part
            yield from _optional_parts(part, f"{prefix}{field.name}.")


def _take_none(words: list[str], path: str) -> bool:
    """Whether the words say that the part is left out; if so, the saying is removed."""
    for place, word in enumerate(words):
        if _name(word) == path:
            value = word.split("=", 1)[1:] or words[place + 1 : place + 2]
            if [v.lower() for v in value] == ["none"]:
                del words[place : place + (1 if "=" in word else 2)]
                return True
    return False


def _name(word: str) -> str:
    """What an option names: ``--policy.text-tokens=20`` is ``policy.text_tokens``; empty for a value."""
    return word[2:].split("=")[0].replace("-", "_") if word.startswith("--") else ""


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def _replaced(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return replace(config, **{name: _replaced(getattr(config, name), rest, value) if rest else value})
