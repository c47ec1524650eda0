"""What a free answer says, read by rules alone: numbers, lengths in metres, yes or no.

The grammar, after spelled numbers have become digits (`fathom.vlm.scoring.numerals`)::

    text      = anything, with quantities in it
    quantity  = compound | range | tolerance | restated | measure
    compound  = measure measure        in feet and inches or in metres and centimetres: "3 ft 2 in", "1 m 20 cm", and
                                       where the second unit goes without saying: "5 ft 3", "1 m 20"
    range     = measure ("-" | "~" | "to" | "or") measure | "between" measure "and" measure      counts as its middle
    tolerance = measure ("±" | "+/-" | "plus or minus") measure                 the first
    restated  = measure "(" measure ")"    in another unit, of about the same length: "1.5 m (5 ft)"     the first
    measure   = ["-"] number [["-"] unit]          a number of a list without a unit has that of the next: "80 x 63 cm"
    number    = "1.5" | "1,5" | "1,200" | "1.200,5" | "1.2e3" | "1/2" | "2 1/2"
    unit      = km m dm cm mm μm mi yd ft in, their names, 5'10"; or another one ("45 degrees"), which is no length

A comma before exactly three digits groups thousands, unless the number begins with 0; before any other digits it is a
decimal point; within brackets it parts the numbers of a list.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from fathom.vlm.scoring.numerals import SPELLED_UNITS, in_digits

METRIC = {
    "km": Fraction(1000),
    "m": Fraction(1),
    "dm": Fraction(1, 10),
    "cm": Fraction(1, 100),
    "mm": Fraction(1, 1000),
    "μm": Fraction(1, 1_000_000),
}
IMPERIAL = {
    "mi": Fraction("1609.344"),
    "yd": Fraction("0.9144"),
    "ft": Fraction("0.3048"),
    "in": Fraction("0.0254"),
}
_METRES = METRIC | IMPERIAL
_OTHER = "other"
_SYMBOLS = {"'": "ft", '"': "in"}
_SPELLED = {"kilo": "km", "deci": "dm", "centi": "cm", "milli": "mm", "micro": "μm", "met": "m"} | {
    "inch": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi",
    "kms": "km", "cms": "cm", "mms": "mm", "yds": "yd", "ins": "in",
}  # fmt: skip

# of at most 15 digits before the point: what is longer is no measure, and need not become a float
_NUMBER = r"""
    (?:\d{1,9}\s+)?\d{1,9}/0*[1-9]\d{0,9}
    | (?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){1,4},\d{1,40}(?!\d|[.,]\d)
    | (?<!\d,)[1-9]\d{0,2}(?:,\d{3}){1,4}(?:\.\d{1,40})?(?!\d|,\d)
    | (?<![\d.],)\d{1,15},\d{1,40}(?!\d|[.,]\d)
    | (?:\d{1,15}(?:\.\d{1,40})?|\.\d{1,40})(?:e[+-]?\d{1,2})?
"""
# "in" is mostly a preposition: "there are 2 in the picture"
_IN = (
    r"in(?!\s+(?:the|this|that|these|those|an?|total|all|front|each|every|view|sight|my|our|your|its|his|her|their"
    r"|between|order|line|images?|pictures?|photos?|regions?|rooms?|scene|frame|here|there|it|them|which|both|\d+)\b)"
)
_LENGTH = rf"{SPELLED_UNITS}|kms?|dm|cms?|mms?|μm|m|mi|yds?|ft|ins|{_IN}"
_NO_LENGTH = (
    r"degrees?|deg|percent|o'?\s?clock|seconds?|minutes?|hours?|times|pixels?|px|kg|g|kilograms?|pounds?|lbs?|years?"
    r"|(?:square|cubic|sq\.?)\s+\w+|(?:km|m|cm|mm|ft)(?:[²³]|\^?[23]\b|\s*/\s*\w+)"
)
_PRIME = r"['\"](?!(?!x\s*\d)[a-z])"  # what opens a word in quotation marks is no inch
_QUANTITY = re.compile(
    rf"(?<![a-z_\d]) (?P<number>{_NUMBER})"
    rf"(?: \s*-?\s*(?:(?P<other>[%°]|(?:{_NO_LENGTH})(?!\w)) | (?P<unit>(?:{_LENGTH})(?![\w²³^])|{_PRIME}))"
    r"| (?!\w)(?!\.\d) )",
    re.VERBOSE,
)
_LIST = re.compile(r"\[[^\]]*\]|\([\s\d.,+-]*\)")
_CROSS = re.compile(r"(?<=[\dm])\s*[x*]\s*(?=\.?\d)")
_MIXED = re.compile(r"(?<=\d)-(?=\d{1,2}/\d)")  # 5-1/2 ft
_JOINED = re.compile(r"(?<=\d)(\s*(?:ft|foot|feet|m(?=\d\d)))(?=\d{1,2}(?:\s*(?:in|cm)|(?!\w|[.,]\d)))")  # 5ft3in, 1m20

_ABOUT = r"(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|~|≈)\s*)?"
_TO = re.compile(rf"(?:\s*(?:-|to|or|until)\s*|~|\s+~\s+){_ABOUT}")
_AND = re.compile(rf"\s*and\s*{_ABOUT}")
_BETWEEN = re.compile(rf"\bbetween\s+{_ABOUT}$")
_TOLERANCE = re.compile(r"\s*(?:±|\+\s*/?\s*-|plus\s+or\s+minus|plus/minus)\s*")
_OPENS, _CLOSES = re.compile(rf"\s*\(\s*(?:or|i\.e\.,?|=)?\s*{_ABOUT}"), re.compile(r"[^()]{0,12}\)")
_NAMES_A_THING = re.compile(r"\s*(?!(?:tall|high|wide|long|deep|away|apart|from|in)\b)[a-z]")  # "5 ft 3 chairs"
_BESIDE = re.compile(r"\s*(?:x|by|,|and|,\s*and|&)\s*")
_GOES_ON = {"metric": re.compile(r"\s*(?:and\s+)?"), "imperial": re.compile(r"\.?\s*,?\s*(?:and\s+)?")}


_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A number of a text, its unit (``None`` for none, ``"other"`` for one that measures no length), and its place."""

    value: Fraction
    unit: str | None
    start: int
    end: int

    @property
    def metres(self) -> Fraction:
        """Its length; without a unit it is taken to be in metres."""
        return self.value * _METRES[self.unit or "m"]


Merge = Callable[[str, Quantity, Quantity], Quantity | None]


def final(response: str) -> str:
    """What a response says in the end: between its last ``<answer>`` tags, or else without its ``<think>`` part."""
    tagged = _ANSWER.findall(response)
    said = str(tagged[-1]) if tagged else _THOUGHTS.sub(" ", response)
    return said if said.strip() else response


def quantities(text: str) -> list[Quantity]:
    """All quantities of a text in their order, compounds added up and ranges replaced by their middle."""
    text = _prepared(text)
    found: list[Quantity] = []
    for match in _QUANTITY.finditer(text):
        found.append(_measure(text, match, found[-1].end if found else 0))
    for merge in (_compound, _range, _tolerance, _restated):
        found = _merged(text, found, merge)
    return _with_units_of_lists(text, found)


def lengths(text: str) -> list[float]:
    """The lengths in a text, in metres: those with a unit or, where none has one, all bare numbers."""
    found = [quantity for quantity in quantities(text) if quantity.unit != _OTHER]
    measured = [quantity for quantity in found if quantity.unit]
    return [float(quantity.metres) for quantity in measured or found]


def numbers(text: str) -> list[float]:
    """The numbers in a text that count something: those without a unit."""
    return [float(quantity.value) for quantity in quantities(text) if quantity.unit is None]


def new_lengths(text: str, question: str, wanted: int = 1) -> list[float]:
    """The lengths in an answer, without those that the question gave, as long as there are more than ``wanted``.

    "The bed is 0.81 m high, how high is the table?" is often answered with both numbers, the first perhaps as "0.8 m".
    """
    found = lengths(text)
    for known in (float(quantity.metres) for quantity in quantities(question) if quantity.unit in _METRES):
        nearest = min(found, key=lambda length: abs(length - known), default=known)
        if len(found) > wanted and abs(nearest - known) <= abs(known) / 50:
            found.remove(nearest)
    return found


def _prepared(text: str) -> str:
    text = _LIST.sub(lambda m: m[0].replace(",", ", "), in_digits(text))
    return _CROSS.sub(" x ", _MIXED.sub(" ", _JOINED.sub(r"\1 ", text)))


def _measure(text: str, match: re.Match[str], previous_end: int) -> Quantity:
    before, start = text[: match.start()], match.start()
    value = _value(match["number"])
    behind_another = previous_end > 0 and before[previous_end:].strip() == "-"  # then the dash is a range
    if re.search(r"(?:^|[^\w)\]'\"-])-$", before) and not behind_another:
        value, start = -value, start - 1
    unit = _OTHER if match["other"] else match["unit"]
    if unit in _SYMBOLS:
        quoted = len(re.findall(rf"(?:^|[\s(:]){unit}", before)) % 2 == 1  # then it closes the quotation
        unit = None if quoted else _SYMBOLS[unit]
    elif match["unit"]:
        unit = next((short for name, short in _SPELLED.items() if match["unit"].startswith(name)), match["unit"])
    return Quantity(value, unit, start, match.end())


def _value(number: str) -> Fraction:
    whole, _, fraction = number.rpartition(" ") if "/" in number else ("", "", number)
    if re.fullmatch(r"\d+(?:\.\d{3})+,\d+", fraction):
        fraction = fraction.replace(".", "").replace(",", ".")
    if "," in fraction:
        thousands = re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", fraction)
        fraction = fraction.replace(",", "" if thousands else ".")
    if "/" in fraction:
        above, below = fraction.split("/")
        return Fraction(whole.strip() or 0) + Fraction(int(above), int(below))
    return Fraction(fraction)


def _merged(text: str, found: list[Quantity], merge: Merge) -> list[Quantity]:
    merged: list[Quantity] = []
    for quantity in found:
        joined = merge(text, merged[-1], quantity) if merged else None
        merged[-1:] = [joined] if joined else [*merged[-1:], quantity]
    return merged


def _compound(text: str, first: Quantity, second: Quantity) -> Quantity | None:
    """ "3 ft 2 in": whole feet, then fewer inches than make a foot; "1 m and 0.5 m" are two lengths."""
    for name, units in (("metric", METRIC), ("imperial", IMPERIAL)):
        if first.unit in units and second.unit in units and _GOES_ON[name].fullmatch(text, first.end, second.start):
            smaller = units[second.unit] < units[first.unit]
            fits = smaller and first.value.denominator == 1 and 0 <= second.metres < units[first.unit]
            if fits:
                return Quantity(first.metres + second.metres, "m", first.start, second.end)
    return _unsaid(text, first, second)


def _unsaid(text: str, first: Quantity, second: Quantity) -> Quantity | None:
    """ "5 ft 3", "1 m 20": inches, and centimetres in two digits, without their name."""
    digits = text[second.start : second.end]
    said = second.unit is not None or text[first.end : second.start].strip() or first.value.denominator != 1
    if said or not digits.isdecimal() or _NAMES_A_THING.match(text, second.end):
        return None
    if first.unit == "ft" and second.value < 12:
        return Quantity(first.metres + second.value * IMPERIAL["in"], "m", first.start, second.end)
    if first.unit == "m" and len(digits) == 2:
        return Quantity(first.metres + second.value * METRIC["cm"], "m", first.start, second.end)
    return None


def _range(text: str, first: Quantity, second: Quantity) -> Quantity | None:
    """ "2-3 m", "20 cm to 30 cm", "between 2 and 3 m": its middle."""
    between = _BETWEEN.search(text, 0, first.start) and _AND.fullmatch(text, first.end, second.start)
    if _OTHER in (first.unit, second.unit) or not (between or _TO.fullmatch(text, first.end, second.start)):
        return None
    if first.unit is None and second.unit is None:
        return Quantity((first.value + second.value) / 2, None, first.start, second.end)
    first = replace(first, unit=first.unit or second.unit)
    second = replace(second, unit=second.unit or first.unit)
    return Quantity((first.metres + second.metres) / 2, "m", first.start, second.end)


def _tolerance(text: str, first: Quantity, second: Quantity) -> Quantity | None:
    """ "2 ± 0.1 m": the 2 m."""
    if _OTHER in (first.unit, second.unit) or not _TOLERANCE.fullmatch(text, first.end, second.start):
        return None
    return Quantity(first.value, first.unit or second.unit, first.start, second.end)


def _restated(text: str, first: Quantity, second: Quantity) -> Quantity | None:
    """ "1.5 m (5 ft)": the 1.5 m, where both are about the same length."""
    both = first.unit in _METRES and second.unit in _METRES and first.unit != second.unit
    if not both or not (_OPENS.fullmatch(text, first.end, second.start) and _CLOSES.match(text, second.end)):
        return None
    alike = abs(first.metres - second.metres) <= abs(first.metres) / 10
    return replace(first, end=second.end) if alike else None


def _with_units_of_lists(text: str, found: list[Quantity]) -> list[Quantity]:
    """ "80 x 63 x 55 cm": each has the unit of the next where nothing else stands between them."""
    for place in range(len(found) - 2, -1, -1):
        one, following = found[place], found[place + 1]
        if one.unit is None and following.unit and _BESIDE.fullmatch(text, one.end, following.start):
            found[place] = replace(one, unit=following.unit)
    return found
