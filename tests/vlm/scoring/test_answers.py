"""Numbers and lengths that free answers hold. Expected values are computed by hand from the definition of the units."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.vlm.scoring.answers import final, lengths, new_lengths, numbers, quantities

INCH, FOOT, YARD = 0.0254, 0.3048, 0.9144


@pytest.mark.parametrize(
    ("text", "metres"),
    [
        ("2.5", [2.5]),  # metres where nothing says otherwise
        ("It is about 120 cm away.", [1.2]),
        ("1,200 mm", [1.2]),
        ("2,345.5 mm", [2.3455]),
        ("1,5 m", [1.5]),
        ("0,125 m", [0.125]),
        (".5 m", [0.5]),
        ("~2.5m", [2.5]),
        ("1.2e-1 m", [0.12]),
        ("0.4 km", [400.0]),
        ("3 ft 2 in", [3 * FOOT + 2 * INCH]),
        ("3 feet and 2 inches", [3 * FOOT + 2 * INCH]),
        ("3 ft. 2 in.", [3 * FOOT + 2 * INCH]),
        ("6’2”", [6 * FOOT + 2 * INCH]),
        ("5'10\" tall", [5 * FOOT + 10 * INCH]),
        ("a 5-foot table", [5 * FOOT]),
        ("1 m 20 cm", [1.2]),
        ("1.0 m and 0.5 m", [1.0, 0.5]),
        ("10 mm and 0.5 mm", [0.01, 0.0005]),
        ("3 ft, 0.5 ft", [3 * FOOT, 0.5 * FOOT]),
        ("2 yards", [2 * YARD]),
        ("5 ins", [5 * INCH]),
        ("a half-meter", [0.5]),
        ("one-half meter", [0.5]),
        ("one and three quarters of a meter", [1.75]),
        ("0.75 of a meter", [0.75]),
        ("3 and 1/2 feet", [3.5 * FOOT]),
        ("twelve hundred millimeters", [1.2]),
        ("2-3 m", [2.5]),
        ("2 – 3 meters", [2.5]),
        ("2 to 3 m", [2.5]),
        ("2 or 3 m", [2.5]),
        ("between 2 and about 3 meters", [2.5]),
        ("20 cm to 30 cm", [0.25]),
        ("80 cm to 1.2 m", [1.0]),
        ("2 to 3", [2.5]),
        ("two and a half meters", [2.5]),
        ("a meter and a half", [1.5]),
        ("half a meter", [0.5]),
        ("three quarters of a metre", [0.75]),
        ("about a foot", [FOOT]),
        ("twenty-five cm", [0.25]),
        ("one hundred and twenty centimeters", [1.2]),
        ("two thousand five hundred and ten mm", [2.51]),
        ("one point five meters", [1.5]),
        ("2 1/2 ft", [2.5 * FOOT]),
        ("**120** cm", [1.2]),
        (r"\(120\,\text{cm}\)", [1.2]),
        (r"\boxed{2.5}", [2.5]),
        ("0.33333333333333331 m", [0.33333333333333331]),
        ("2½ ft", [2.5 * FOOT]),
        ("3/4 m", [0.75]),
        ("-2.5 m", [-2.5]),
        ("minus two meters", [-2.0]),
        ("negative 0.5 m", [-0.5]),
        ("120 cms", [1.2]),
        ("1 200 mm", [1.2]),
        ("1\u202f200 mm", [1.2]),
        ("1,200.5 mm", [1.2005]),
        ("1.200,5 m", [1200.5]),
        ("1.234.567,5 mm", [1234.5675]),
        ("15 μm", [15e-6]),
        ("15 µm", [15e-6]),
        ("20 microns", [20e-6]),
        (r"1.2 \times 10^{2} cm", [1.2]),
        (r"\frac{3}{4} m", [0.75]),
        ("1~2 m", [1.5]),
        ("between one and two metres", [1.5]),
        ("two to three feet", [2.5 * FOOT]),
        ("2 ± 0.1 m", [2.0]),
        ("2.0 m +/- 10 cm", [2.0]),
        ("1.5 m (about 5 feet)", [1.5]),
        ("5 feet (1.5 m)", [5 * FOOT]),
        ("1.5 m (5 ft) x 0.6 m (2 ft)", [1.5, 0.6]),
        ("5 ft 3", [5 * FOOT + 3 * INCH]),
        ("5' 10", [5 * FOOT + 10 * INCH]),
        ("5ft3in", [5 * FOOT + 3 * INCH]),
        ("six foot two", [6 * FOOT + 2 * INCH]),
        ("one metre twenty", [1.2]),
        ("1m20", [1.2]),
        ("one-and-a-half metres", [1.5]),
        ("5-1/2 feet", [5.5 * FOOT]),
        ("a couple of metres", [2.0]),
        ("0.8 m x 0.63 m × 0.55 m", [0.8, 0.63, 0.55]),
        ("80x63x55 cm", [0.8, 0.63, 0.55]),
        ("[0.8,0.63,0.55]", [0.8, 0.63, 0.55]),
        ("(1,2)", [1.0, 2.0]),
        ("1.2 and 0.9 meters respectively", [1.2, 0.9]),
        ("a length of 2.28 m, width of 0.75 m, and height of 0.87 m.", [2.28, 0.75, 0.87]),
    ],
)
def test_lengths_are_read_in_metres(text: str, metres: list[float]) -> None:
    assert lengths(text) == pytest.approx(metres)


@pytest.mark.parametrize(
    "text",
    ["", "I cannot tell.", "the 3D model", "the 2nd shelf", "img_3", "4 m²", "45 degrees", "3 m/s", "1m2", "9" * 5000],
)
def test_what_holds_no_length(text: str) -> None:
    assert lengths(text) == []


@pytest.mark.parametrize(
    ("text", "metres"),
    [
        ("Chair 2 is 1.5 m from table 3.", [1.5]),  # numbers without a unit are names where another has one
        ("At 45 degrees, 2 m away", [2.0]),
        ("The one on the left is 2.5 away", [2.5]),
        ("the answer is '2'", [2.0]),  # a closing quotation mark is no foot
        ("1 m and 1.5 m", [1.0, 1.5]),  # no compound: 150 cm are more than a metre
        ("1.5 m and 20 cm", [1.5, 0.2]),  # nor with a broken number of metres
        ("table-2 m", [2.0]),  # no minus
        ("- 2 m", [2.0]),  # an item of a list
        ("2 m 10 chairs", [2.0]),
        ("5 ft 3 chairs", [5 * FOOT]),
        ("1.5 m (2 m from the door)", [1.5, 2.0]),
        ("1.5 m (9 ft for the door)", [1.5, 9 * FOOT]),  # another length
    ],
)
def test_what_looks_like_another_length(text: str, metres: list[float]) -> None:
    assert lengths(text) == pytest.approx(metres)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("There are 3 chairs.", [3]),
        ("There are 2 in the picture", [2]),
        ("two", [2]),
        ("There is one chair", [1]),
        ("There are 3 in it.", [3]),
        ("a dozen chairs", [12]),
        ("half a dozen", [6]),
        ("a couple of chairs", [2]),
        ("2 m away are 4 chairs", [4]),
        ("zero", [0]),
        ("3 chairs, 1.2 m apart", [3]),
        ("1,2,3", [1, 2, 3]),
        ('3 "chairs"', [3]),
        ("there are 3 'chairs'", [3]),
        ("6 in here", [6]),
    ],
)
def test_numbers_without_a_unit_count(text: str, counts: list[float]) -> None:
    assert numbers(text) == counts


def test_lengths_of_the_question_are_no_answer() -> None:
    question = "The bed is 0.81 m high. How high are the table and the lamp?"
    assert new_lengths("As the bed is 0.81 m, the table is 1.02 m and the lamp 0.81 m high", question) == [1.02, 0.81]
    assert new_lengths("0.81 m", question) == [0.81]
    assert new_lengths("The bed is 0.8 m, the table 1.02 m", question) == [1.02]
    assert new_lengths("0.81 m and 0.7 m", question, wanted=2) == [0.81, 0.7]


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("2 m", "2 m"),
        ("<think>5 m?\n4 m!</think>\n2 m", "2 m"),
        ("<think>5 m</think> <answer> 3 </answer> no: <ANSWER>2 m</ANSWER>", "2 m"),
        ("<think>2 m</think>", "<think>2 m</think>"),  # nothing else was said
    ],
)
def test_thoughts_are_no_answer(response: str, said: str) -> None:
    assert final(response).strip() == said


DECIMALS = st.decimals(min_value="0.001", max_value="999", places=3)


@given(DECIMALS, st.sampled_from([("m", 1), ("cm", 100), ("mm", 1000), ("centimeters", 100), ("metres", 1)]))
def test_a_written_length_is_read_exactly(number, unit) -> None:
    name, per_metre = unit
    assert lengths(f"It is about {number} {name} away.") == [float(Fraction(number) / per_metre)]


@given(st.integers(1, 50), st.integers(0, 11))
def test_feet_and_inches_add_up(feet: int, inches: int) -> None:
    (metres,) = lengths(f"{feet} feet {inches} inches")
    assert metres == pytest.approx((12 * feet + inches) * INCH)


@given(DECIMALS, DECIMALS)
def test_a_range_is_its_middle(one, other) -> None:
    assert lengths(f"between {one} and {other} m") == [float((Fraction(one) + Fraction(other)) / 2)]
    assert lengths(f"{one}-{other} m") == [float((Fraction(one) + Fraction(other)) / 2)]


@given(st.integers(1000, 999_999))
def test_thousands_may_be_grouped(number: int) -> None:
    assert lengths(f"{number:,} mm") == lengths(f"{number} mm") == [number / 1000]


@given(st.lists(DECIMALS, min_size=1, max_size=4))
def test_a_list_keeps_its_order(values) -> None:
    assert lengths(str([float(value) for value in values])) == [float(value) for value in values]


@given(st.text(max_size=80) | st.text(alphabet="0123456789.,-/ xm'\"[]ftinand½e", max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = quantities(text)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert len(lengths(text)) <= len(found)
