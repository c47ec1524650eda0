"""Whether a response says what the answer says, judged by rules: for questions that are not answered with a number.

The rules, in this order; the first that can tell does:

1. *Yes or no*: both say one, or one of them is a statement that affirms or denies what the question asks.
2. *Sides*: the answer names sides ("left", "behind", "taller") that the question left open; the response must name the
   same on every axis. A statement about the same two objects in the other order counts with its sides exchanged.
3. *Choice*: the answer names one of the question's objects; the response must name it, and no other before a "than" or
   a "not".

Where none can tell, the verdict is ``None``. The rules know words, not language: they are no match for a judge that
reads, but give the same verdict every time.
"""

import re
from collections import Counter

_YES = r"yes|yeah|yep|indeed|correct|true|certainly|absolutely|definitely|of course|sure"
_NO = r"no|nope|not|none|nothing|cannot|\w+n't|incorrect|false|wrong|untrue|neither|never"
_DECIDING = re.compile(rf"\b(?:(?P<denied>(?:not|n't)\s+(?:{_YES}))|(?P<yes>{_YES})|(?P<no>{_NO}))\b")
_UNSURE = re.compile(
    r"\b(?:not (?:sure|certain|clear)|unsure|unclear|unknown"
    r"|(?:don't|do not|can't|cannot|not able to|unable to) (?:know|tell|say|determine|answer|be sure))\b"
)
_ASKS_YES_OR_NO = re.compile(r"\s*(?:(?:is|are|was|were|do|does|did|can|could|has|have|will|would)\b|.*[.,!]\s*is\b)")

_AXES = (
    (("left", "leftmost"), ("right", "rightmost")),
    (("above", "over", "top", "higher", "upper"), ("below", "under", "beneath", "underneath", "bottom", "lower")),
    (("front", "nearer", "nearest", "closer", "closest", "near"), ("behind", "back", "farther", "further", "farthest")),
    (("taller", "tallest", "longer", "longest"), ("shorter", "shortest")),
    (("wider", "widest", "broader"), ("narrower", "narrowest", "thinner", "thinnest")),
    (("bigger", "biggest", "larger", "largest", "greater"), ("smaller", "smallest", "tinier")),
)
_SIDES = {
    word: (axis, sign)
    for axis, (one, other) in enumerate(_AXES)
    for sign, words in ((1, one), (-1, other))
    for word in words
}
_LITTLE = re.compile(
    r"an?|the|of|to|in|on|at|by|for|from|with|and|or|is|are|was|were|be|it|its|this|that|these|those|there|which|what|who"
    r"|where|ones?|between|among|side|more|less|most|much|appears|positioned|located|standing|seems|ha[sd]|have|do|does"
    r"|viewer('s)?|perspective|image|picture|objects?|you|your|i|so|as|very|two"
    r"|height|width|size|length|tall|wide|big|long|short|narrow|thin|small|high|low"
)


def agrees(question: str, answer: str, response: str) -> bool | None:
    """Whether the response says what the true answer says; ``None`` where the rules cannot tell."""
    if _UNSURE.search(_plain(response)):
        return None
    for rule in (_same_polarity, _same_sides, _same_choice):
        verdict = rule(question, answer, response)
        if verdict is not None:
            return verdict
    return None


def polarity(text: str) -> bool | None:
    """Yes or no, by the first word that decides; ``None`` where nothing does, or the text says that it cannot tell."""
    text = _plain(text)
    match = None if _UNSURE.search(text) else _DECIDING.search(text)
    return bool(match["yes"]) if match else None


def contains_words(text: str, words: str) -> bool:
    """Whether ``words`` stand in ``text`` as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(words.strip().lower())}(?!\w)", text.lower()) is not None


def _same_polarity(question: str, answer: str, response: str) -> bool | None:
    expected, said = polarity(answer), polarity(response)
    if expected is None and said is None:
        return None
    if expected is None:
        expected = _affirms(question, answer)
    if said is None:
        said = _affirms(question, response)
    return None if expected is None or said is None else expected == said


def _affirms(question: str, statement: str) -> bool | None:
    """Whether a statement without a yes or no affirms what a question asks: "left of" what is asked to be left."""
    if not _ASKS_YES_OR_NO.match(_plain(question)):
        return None
    asked, stated = _sides(question), _sides(statement)
    shared = asked.keys() & stated.keys()
    if not shared:
        return None
    turned = -1 if _in_other_order(question, question, statement) else 1
    return all(asked[axis] == turned * stated[axis] for axis in shared)


def _same_sides(question: str, answer: str, response: str) -> bool | None:
    expected = {axis: sign for axis, sign in _sides(answer).items() if axis not in _sides(question)}
    if not expected:
        return None
    said = _sides(response)
    turned = -1 if _in_other_order(question, answer, response) else 1
    return all(turned * said.get(axis, 0) == sign for axis, sign in expected.items())


def _same_choice(question: str, answer: str, response: str) -> bool | None:
    answer, response = _chosen(answer), _chosen(response)
    asked, expected, said = _names(question), _names(answer), _names(response)
    telling = {name for name in expected if asked.count(name) <= 1}
    if not telling or not said or polarity(answer) is not None or polarity(response) is not None:
        return None
    others = (set(said) & set(asked)) - set(expected)
    return bool(telling & set(said)) and not others


def _sides(text: str) -> dict[int, int]:
    """The side that a text names on each axis; an axis of which it names both is left out."""
    named = [_SIDES[word] for word in _words(text) if word in _SIDES]
    return {axis: sign for axis, sign in named if (axis, -sign) not in named}


def _in_other_order(question: str, one: str, other: str) -> bool:
    """Whether two statements name the same objects of a question in opposite orders."""
    counts = Counter(_names(question))
    orders = [list(dict.fromkeys(name for name in _names(text) if counts[name] == 1)) for text in (one, other)]
    shared = [[name for name in order if name in orders[1 - place]] for place, order in enumerate(orders)]
    return len(shared[0]) > 1 and shared[0] == shared[1][::-1]


def _names(text: str) -> list[str]:
    """What is left of a text without sides, measures and little words: mostly the names of its objects."""
    return [word for word in _words(text) if not _LITTLE.fullmatch(word) and word not in _SIDES]


def _chosen(text: str) -> str:
    """The part of a statement that names what it prefers."""
    return re.split(r"\bthan\b|\bcompared\b|\bnot\b", _plain(text))[0]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", _plain(text))


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")
