"""Numbers that are written in words, or in the signs of print, turned into digits.

``two and a half meters`` becomes ``5/2 meters``; what is no number stays as it is.
"""

import re
import unicodedata
from fractions import Fraction

_ONE = "one|two|three|four|five|six|seven|eight|nine"
_TEEN = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TY = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_VALUES = (
    {word: value for value, word in enumerate(f"zero|{_ONE}|{_TEEN}".split("|"))}
    | {word: 10 * value for value, word in enumerate(_TY.split("|"), start=2)}
    | {"a": 1}
)
_SHARES = {"half": 2, "third": 3, "quarter": 4}

SPELLED_UNITS = (
    r"kilomet(?:er|re)s?|micromet(?:er|re)s?|microns?|decimet(?:er|re)s?|centimet(?:er|re)s?|millimet(?:er|re)s?|met(?:er|re)s?"
    r"|inch(?:es)?|foot|feet|yards?|miles?"
)
_UNIT = rf"(?:{SPELLED_UNITS}|km|cm|mm|m|ft|yd)\b"

_BELOW_100 = rf"(?:(?:{_TY})(?:[\s-]+(?:{_ONE})\b)?|{_TEEN}|{_ONE}|zero)"
_BELOW_1000 = rf"(?:(?:{_TEEN}|{_ONE}|a)\s+hundred(?:\s+(?:and\s+)?{_BELOW_100}\b)?|{_BELOW_100})"
_CARDINAL = rf"(?:(?:{_BELOW_1000}|a)\s+thousand(?:\s+(?:and\s+)?{_BELOW_1000}\b)?|{_BELOW_1000})"
_SPELLED = re.compile(rf"\b({_CARDINAL})(?:\s+point((?:\s+(?:zero|{_ONE}))+))?\b")
_PRONOUN = re.compile(r"\b(?:the|this|that|which|each|any|every|no|other|another)\s+$")  # "the one on the left"

_DIGITS = r"\d+(?:\.\d+)?"
_AND_SHARE = rf"[\s-]+and[\s-]+(?P<part>an?|\d)[\s-]+(?P<share>{'|'.join(_SHARES)})s?\b"
_MIXED = re.compile(rf"(?<![\w./,])(?P<whole>{_DIGITS}){_AND_SHARE}")  # two and a half
_UNIT_MIXED = re.compile(
    rf"(?<![\w./,])(?P<whole>{_DIGITS}|\ban?)\s+(?P<unit>{_UNIT}){_AND_SHARE}"
)  # a meter and a half
_SHARE = re.compile(  # half a meter, three quarters of a meter
    rf"(?<![\w./,])(?:(?P<part>an?|\d)[\s-]+)?(?P<share>{'|'.join(_SHARES)})s?[\s-]+(?:of\s+)?(?:(?:an?|1)\s+)?(?={_UNIT})"
)
_AND_FRACTION = re.compile(r"(?<![\w./,])(\d+)\s+and\s+(?=\d/\d)")  # 3 and 1/2 feet
_OF = re.compile(rf"(?<=\d)\s+of\s+an?\s+(?={_UNIT})")  # 0.75 of a meter
_ARTICLE = re.compile(rf"\ban?\s+(?=(?:{SPELLED_UNITS})\b)")  # a meter
_DOZEN = re.compile(r"\b(?:(half)\s+an?|(?<!half )an?|(\d{1,2}))\s+dozen\b")
_COUPLE = re.compile(r"\ba\s+couple\s+of\s+")
_MINUS = re.compile(r"(?:^|(?<=[\s(:]))(?:minus|negative)\s+(?=\d)")

_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_POWER = re.compile(r"(?<=\d)\s*(?:[×x*]|\\times|\\cdot)\s*10\s*\^\s*\{?([+-]?\d{1,2})\}?")
_GROUPED = re.compile(  # 1 200: with the narrow spaces of print anywhere, with a plain one before a unit
    rf"(?<![\d.,])[1-9]\d{{0,2}}(?:(?:[\u00a0\u2009\u202f]\d{{3}})+(?!\d)|(?: \d{{3}})+(?=\s*{_UNIT}))"
)
_MARKUP = re.compile(r"\\(?:text|mathrm|boxed)\s*\{([^{}]*)\}")  # of LaTeX, as models like to write it
_SPACE = re.compile(r"\\[,;:! ()]|\$")
_SIGNS = str.maketrans(
    {
        "µ": "μ",
        "−": "-",
        "‒": "-",
        "–": "-",
        "—": "-",
        "×": "x",
        "′": "'",
        "’": "'",
        "‘": "'",
        "″": '"',
        "”": '"',
        "“": '"',
    }
)


def in_digits(text: str) -> str:
    """``text`` in lower case, without markup, its spelled numbers as digits, its dashes and fractions in ASCII."""
    text = _FRACTION.sub(r" \1/\2", _POWER.sub(r"e\1", text.replace("**", "")))
    text = _SPACE.sub(" ", _MARKUP.sub(r" \1 ", text))
    text = _GROUPED.sub(lambda m: re.sub(r"\s", "", m[0]), text)
    text = "".join(_plain(character) for character in text).lower().translate(_SIGNS).replace("''", '"')
    text = _COUPLE.sub("2 ", _SPELLED.sub(_spelled, text))
    text = _DOZEN.sub(lambda m: "6" if m[1] else str(12 * int(m[2] or 1)), text)
    text = _UNIT_MIXED.sub(lambda m: f"{_number(m['whole']) + _share(m)} {m['unit']}", text)
    text = _MIXED.sub(lambda m: str(_number(m["whole"]) + _share(m)), text)
    text = _OF.sub(" ", _SHARE.sub(lambda m: f"{_share(m)} ", _AND_FRACTION.sub(r"\1 ", text)))
    return _MINUS.sub("-", _ARTICLE.sub("1 ", text))


def _plain(character: str) -> str:
    """``½`` as `` 1/2``, so that ``2½`` becomes ``2 1/2``; any other character as it is."""
    kind, *parts = unicodedata.decomposition(character).split() or [""]
    if kind != "<fraction>":
        return character
    return " " + "".join(chr(int(part, 16)) for part in parts).replace("⁄", "/")


def _spelled(match: re.Match[str]) -> str:
    if match[0] == "one" and _PRONOUN.search(match.string, 0, match.start()):
        return match[0]
    decimals = "".join(str(_VALUES[word]) for word in (match[2] or "").split())
    whole = str(_cardinal(re.findall(r"[a-z]+", match[1])))
    return f"{whole}.{decimals}" if decimals else whole


def _cardinal(words: list[str]) -> int:
    total = part = 0
    for word in words:
        if word == "thousand":
            total, part = part * 1000, 0
        elif word == "hundred":
            part *= 100
        elif word != "and":
            part += _VALUES[word]
    return total + part


def _number(digits: str) -> Fraction:
    return Fraction(1) if digits in ("a", "an") else Fraction(digits)


def _share(match: re.Match[str]) -> Fraction:
    return _number(match["part"] or "a") / _SHARES[match["share"]]
