"""Variants of a recipe, as a command line names them: ``depth=none``, ``expert=none+blind=true``, ``recipe=other``."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from fathom.errors import UserError
from fathom.recipes import policy_recipe
from fathom.training.policy import PolicyRecipe

JOINT = "+"
"""Between the changes of one variant."""

OTHER = "recipe"
"""What names another recipe, where the fields of this one would stand: ``recipe=quickstart``."""

SHARED = ("training", "normalization", "depth_feature", "episodes_per_task")
"""Fields that a variant of another recipe has from the one that it is compared with: data and budget."""


@dataclass(frozen=True)
class Variant:
    """A recipe, and how it came out of another.

    Attributes:
        name: as it was typed.
        recipe: with the changes.
        changes: the dotted names of the fields that were changed, and their values as text.
    """

    name: str
    recipe: PolicyRecipe
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """A name that every file system takes."""
        return re.sub(r"[^A-Za-z0-9_.=+-]", "_", self.name)


def read_variants(
    items: Sequence[str], recipe: PolicyRecipe, changed: Callable[[PolicyRecipe, tuple[str, ...]], PolicyRecipe]
) -> list[Variant]:
    """Variants of ``recipe`` from the command line.

    Args:
        items: each ``name=value``, or several of these joined by ``+``. A name is that of a field of the recipe with
            the dots of the parts that it lies in, ``policy.depth.visibility``, or as much of its end as no other field
            shares, ``depth.visibility`` or ``visibility``; of several the outermost is meant. With ``recipe=name``
            before them they are changes of that recipe, whose policy is then trained on the data and with the budget
            of this one (:data:`SHARED`).
        changed: a recipe with options such as ``("--policy.depth", "none")``.

    Raises:
        UserError: no such field or recipe, several of them, no value, a variant that changes nothing, or is there
            twice.
    """
    variants: list[Variant] = []
    for item in items:
        variant = _variant(item, recipe, changed)
        if variant.recipe == recipe:
            raise UserError(f"--vary {item} changes nothing: the recipe has that value already")
        for before in variants:
            if variant.recipe == before.recipe or variant.folder == before.folder:
                raise UserError(f"--vary {before.name} and {item} are the same variant: name it once")
        variants.append(variant)
    return variants


def _variant(
    item: str, recipe: PolicyRecipe, changed: Callable[[PolicyRecipe, tuple[str, ...]], PolicyRecipe]
) -> Variant:
    parts, changes = item.split(JOINT), dict[str, str]()
    name, equals, value = (word.strip() for word in parts[0].partition("="))
    if equals and name == OTHER:
        recipe = replace(policy_recipe(value), **{shared: getattr(recipe, shared) for shared in SHARED})
        parts, changes = parts[1:], {OTHER: value}
    paths = list(_paths(type(recipe)))
    own = dict(_change(part, paths, item) for part in parts)
    settings = tuple(word for path, value in own.items() for word in _option(recipe, path, value))
    return Variant(item, changed(recipe, settings) if settings else recipe, changes | own)


def _change(part: str, paths: Sequence[str], item: str) -> tuple[str, str]:
    name, equals, value = (word.strip() for word in part.partition("="))
    if not (name and equals and value):
        raise UserError(f"--vary {item!r}: {part!r} should be name=value, and several of these joined by {JOINT!r}")
    wanted = name.replace("-", "_")
    found = [path for path in paths if path == wanted or path.endswith(f".{wanted}")]
    found = [path for path in found if path.count(".") == min(other.count(".") for other in found)]
    if len(found) > 1:
        raise UserError(f"--vary {item!r}: {name!r} can be {', '.join(found)}: give more of the name")
    if not found:
        last = {path.rsplit(".", 1)[-1]: path for path in reversed(paths)}
        near = [last.get(close, close) for close in get_close_matches(wanted, [*paths, *last], n=3)]
        hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"there are {', '.join(paths)}."
        raise UserError(f"--vary {item!r}: the recipe has no field {name!r}: {hint}")
    return found[0], value


def _paths(kind: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields of a dataclass and of the dataclasses in it, the outer ones first."""
    hints = get_type_hints(kind)
    inner = []
    for name in (known.name for known in fields(kind)):
        yield f"{prefix}{name}"
        parts = get_args(hints[name]) or (hints[name],)
        inner += [(part, f"{prefix}{name}.") for part in parts if is_dataclass(part)]
    for part, before in inner:
        yield from _paths(part, before)


def _option(recipe: Any, path: str, value: str) -> tuple[str, ...]:
    """An option for `with_settings`: switches have no value, lists have several words."""
    now = recipe
    for name in path.split("."):
        now = getattr(now, name, None)
    if isinstance(now, bool):
        if value.lower() not in ("true", "false"):
            raise UserError(f"--vary {path}={value}: it is true or false")
        on, (before, _, last) = value.lower() == "true", path.rpartition(".")
        return () if on == now else (f"--{path}" if on else f"--{before}{'.' if before else ''}no-{last}",)
    return (f"--{path}", *("None" if word.lower() == "none" else word for word in value.split()))
