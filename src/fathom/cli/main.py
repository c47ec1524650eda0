"""``fathom``: reads the command line, runs the verb, and turns what goes wrong into an exit code.

To add a verb: write its module beside this one (`fathom.cli.doctor` is the shortest), and name it in ``VERBS``.

Exit codes: 0 done; 1 a check failed or items were skipped; 2 bad input; 130 interrupted; 143 told to
stop by SIGTERM, with a training's state saved.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn, Union, cast, get_origin, get_type_hints

import tyro

from fathom.cli.ablate import Ablate
from fathom.cli.analyze import AnalyzeGrounding
from fathom.cli.annotate import Annotate
from fathom.cli.collect import Collect
from fathom.cli.convert import ConvertHdf5, ConvertLeRobot, ConvertRlds
from fathom.cli.degrade import Degrade
from fathom.cli.doctor import Doctor
from fathom.cli.eval import Eval
from fathom.cli.import_weights import ImportOpenPiZero, ImportPaliGemma, ImportPi0, ImportQwen3VL
from fathom.cli.inspect import Inspect
from fathom.cli.quickstart import Quickstart
from fathom.cli.report import Report
from fathom.cli.tokenizer import TokenizerEncode, TokenizerEval, TokenizerTrain
from fathom.cli.train import Train
from fathom.cli.verb import STYLE, Group, RecipeVerb, Verb, is_first_process, said_once, with_settings
from fathom.cli.verify import VerifyLeRobot, VerifyOpenPiZero, VerifyVideoDepthAnything
from fathom.cli.vlm_align import VlmAlign
from fathom.cli.vlm_ask import VlmAsk
from fathom.cli.vlm_demo import VlmDemo
from fathom.cli.vlm_finetune import VlmFinetune
from fathom.cli.vlm_pairs import VlmPairs
from fathom.cli.vlm_questions import VlmQuestions
from fathom.cli.vlm_quickstart import VlmQuickstart
from fathom.cli.vlm_score import VlmEval, VlmScore
from fathom.errors import UserError
from fathom.files import is_full_disk

VERBS: dict[str, type[Verb] | Group] = {
    "quickstart": Quickstart,
    "collect": Collect,
    "convert": Group(
        "Turn a dataset of another format into a LeRobot v3.0 dataset.",
        {"libero-hdf5": ConvertHdf5, "rlds": ConvertRlds, "lerobot-v21": ConvertLeRobot},
    ),
    "annotate": Annotate,
    "degrade": Degrade,
    "inspect": Inspect,
    "tokenizer": Group(
        "Train and measure the depth tokenizer, which turns depth pictures into codes, and write codes into a dataset.",
        {"train": TokenizerTrain, "eval": TokenizerEval, "encode": TokenizerEncode},
    ),
    "import": Group(
        "Make a policy, or a start for training one, from a checkpoint of another code base.",
        {
            "paligemma": ImportPaliGemma,
            "open-pi-zero": ImportOpenPiZero,
            "pi0": ImportPi0,
            "qwen3-vl": ImportQwen3VL,
        },
    ),
    "train": Train,
    "eval": Eval,
    "ablate": Ablate,
    "analyze": Group("Look into policies.", {"grounding": AnalyzeGrounding}),
    "report": Report,
    "vlm": Group(
        "Train vision-language models that see depth, ask them how far things are, score the answers.",
        {
            "quickstart": VlmQuickstart,
            "pairs": VlmPairs,
            "align": VlmAlign,
            "finetune": VlmFinetune,
            "ask": VlmAsk,
            "demo": VlmDemo,
            "questions": VlmQuestions,
            "score": VlmScore,
            "eval": VlmEval,
        },
    ),
    "verify": Group(
        "Compare our results with those of the code that defines them.",
        {
            "lerobot": VerifyLeRobot,
            "open-pi-zero": VerifyOpenPiZero,
            "video-depth-anything": VerifyVideoDepthAnything,
        },
    ),
    "doctor": Doctor,
}

BAD_INPUT, INTERRUPTED = 2, 130

_DESCRIPTION = "Fathom gives vision-language-action models a sense of depth."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Raises:
        SystemExit: with code 2 where the arguments cannot be read, and 0 after ``--help``.
    """
    try:
        return parse(sys.argv[1:] if arguments is None else arguments).run() or 0
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to continue")
        return INTERRUPTED
    except UserError as error:
        _say(str(error))
        for line in error.details:
            print(f"  {line}", file=sys.stderr)
        return BAD_INPUT
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        _say(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}; choose another path")
        return BAD_INPUT
    except BrokenPipeError:  # whoever read our output, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not is_full_disk(error):
            raise
        where = getattr(error, "filename", None)
        _say(f"the disk is full{f' ({where})' if where else ''}: free some space and run the same command again")
        return BAD_INPUT


def parse(arguments: Sequence[str]) -> Verb:
    """The verb that the arguments name, with its options; without arguments, the help."""
    arguments = list(arguments) or ["--help"]
    named = _find(arguments)
    options: dict[str, Any] = {"args": arguments, "prog": "fathom", "description": _DESCRIPTION, "config": STYLE}
    if named and "settings" in named[0].__annotations__:
        if not {"-h", "--help"}.isdisjoint(arguments):
            _explain(cast(type[RecipeVerb], named[0]), named[1], options)
        with said_once():
            verb, settings = tyro.cli(_choice(VERBS), return_unknown_args=True, **options)
        return replace(verb, settings=tuple(settings))
    with said_once():
        return tyro.cli(_choice(VERBS), **options)


def _explain(verb: type[RecipeVerb], arguments: Sequence[str], options: dict[str, Any]) -> NoReturn:
    """The help of the verb itself, then that of the fields of the recipe that its arguments name."""
    words = [part for word in arguments for part in word.split("=", 1)]
    by_place = get_origin(get_type_hints(verb, include_extras=True)["recipe"]) is Annotated  # `tyro.conf.Positional`
    if by_place and not words[0].startswith("-"):
        name = words[0]
    else:
        name = words[words.index("--recipe") + 1] if "--recipe" in words[:-1] else verb.recipe
    recipe = verb.recipe_called(name)
    with suppress(SystemExit):
        tyro.cli(_choice(VERBS), **options, return_unknown_args=True)
    print(
        f"\nThe fields of the recipe {name!r} are options too. A part that can be left out is left out\n"
        "by `none`, as in `--policy.depth none`; one that is, such as `--lora`, comes in by naming a field of it.\n",
        flush=True,
    )
    with_settings(recipe, ("--help",), f"fathom … {'' if by_place else '--recipe '}{name}")
    raise SystemExit(0)


def _find(arguments: Sequence[str]) -> tuple[type[Verb], Sequence[str]] | None:
    """The verb whose name the arguments begin with, and those after it; None where they stop short of a verb."""
    verbs: Mapping[str, type[Verb] | Group] = VERBS
    for count, word in enumerate(arguments):
        if word.startswith("-"):
            return None
        if word not in verbs:
            command = " ".join(["fathom", *arguments[:count]])
            near = get_close_matches(word, verbs, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it is one of {', '.join(verbs)}."
            raise UserError(f"'{command}' knows no '{word}': {hint}")
        found = verbs[word]
        if not isinstance(found, Group):
            return found, arguments[count + 1 :]
        verbs = found.verbs
    return None


def _choice(verbs: Mapping[str, type[Verb] | Group]) -> Any:
    """The verbs as the union type that tyro reads as subcommands."""
    members = [
        Annotated[_choice(verb.verbs), tyro.conf.subcommand(name, description=verb.help)]
        if isinstance(verb, Group)
        else Annotated[verb, tyro.conf.subcommand(name)]
        for name, verb in verbs.items()
    ]
    hidden = Annotated[None, tyro.conf.Suppress]  # a union of one would be no choice, and lose its name
    return Union[tuple(members) if len(members) > 1 else (*members, hidden)]  # noqa: UP007 (built, not written)


def _say(sentence: str) -> None:
    """One line on standard error, in red where there is colour; of several processes the first says it."""
    if not is_first_process():
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("fathom: ", "bold red"), sentence), soft_wrap=True)
