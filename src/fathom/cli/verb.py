"""What a verb is: options as fields, and a ``run()``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

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


def with_settings(config: Config, settings: tuple[str, ...], command: str) -> Config:
    """``config`` with the fields that ``settings`` names replaced: ``("--steps", "100", "--optimizer.lr", "1e-4")``.

    An unknown field or a value of the wrong type ends the command with code 2, naming the nearest fields.
    ``command`` is what the user typed so far, for that message.
    """
    return tyro.cli(type(config), default=config, args=settings, prog=command, config=STYLE)
