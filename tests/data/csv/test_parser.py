"""What the parser promises: exact values, located faults, the same rows however the bytes are split."""

import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from disttrain.data.csv.parser import Layout, ParseFault, compile_kernels, parse_rows


def layout(take: list[int], delimiter: str = ",") -> Layout:
    return Layout(len(take), np.array(take, np.int32), sum(column >= 0 for column in take), ord(delimiter))


def parse(data: bytes, take: list[int], *, delimiter: str = ",", room: int | None = None) -> np.ndarray:
    """Parses all rows of some bytes, which are surrounded by unreadable bytes."""
    buffer = np.frombuffer(b'"9' + data + b'9"' * 40, np.uint8)
    out = np.full((data.count(b"\n") + 1 if room is None else room, max(take) + 1), 7, np.float32)
    num_rows, position, _ = parse_rows(buffer, 2, 2 + len(data), layout(take, delimiter), out)
    assert position <= 2 + len(data)
    return out[:num_rows]


def bits(values: np.ndarray) -> list[str]:
    return [f"{value:08x}" for value in np.ascontiguousarray(values, np.float32).view(np.uint32).ravel().tolist()]


def expected(texts: list[str]) -> list[str]:
    with np.errstate(over="ignore", under="ignore"):
        return bits(np.array([np.float32(text) for text in texts], np.float32))


def assert_exact(texts: list[str]) -> None:
    """Checks each text alone at the end of the bytes (the reader for short remains) and among others (the fast one)."""
    filler = b"0.5\n" * 20
    column = "".join(text + "\n" for text in texts).encode()
    assert bits(parse(column + filler, [0])[: len(texts)]) == expected(texts)
    alone = [bits(parse(text.encode(), [0]))[0] for text in texts]
    assert alone == expected(texts)


def fault_of(data: bytes, take: list[int], delimiter: str = ",") -> ParseFault:
    with pytest.raises(ParseFault) as caught:
        parse(data, take, delimiter=delimiter)
    return caught.value


def decimal_text(value: Fraction) -> str:
    """The exact decimal digits of a fraction whose denominator is a power of two."""
    shift = value.denominator.bit_length() - 1
    digits = str(value.numerator * 5**shift).rjust(shift + 1, "0")
    return f"{digits[: len(digits) - shift]}.{digits[len(digits) - shift :]}" if shift else digits


def nudged(text: str) -> list[str]:
    """A text, and texts a little above and below it."""
    text = text if "." in text else text + "."
    whole, _, fraction = text.rstrip("0").partition(".")
    last = int((whole + fraction) or "0")
    below = str(last - 1).rjust(len(whole + fraction), "0")
    return [text, f"{text}{'0' * 30}1", f"{below[: len(whole)]}.{below[len(whole) :]}9999999999999999999999"]


signs = st.sampled_from(["", "-", "+"])
digit_runs = st.text("0123456789", min_size=1, max_size=45) | st.integers(0, 10**9).map(str)
exponents = st.just("") | st.builds(
    "{}{}{}{}".format, st.sampled_from("eE"), signs, st.sampled_from(["", "0", "000"]), st.integers(0, 400)
)
numbers = st.builds(
    "{}{}{}".format,
    signs,
    digit_runs
    | digit_runs.map("{}.".format)
    | digit_runs.map(".{}".format)
    | st.builds("{}.{}".format, digit_runs, digit_runs)
    | st.builds("0.{}{}".format, st.integers(0, 60).map(lambda n: "0" * n), digit_runs),
    exponents,
)
fixed_forms = st.sampled_from([".8f", ".7f", ".6f", ".3f", ".1f", ".0f", ".9f", "+.8f"])


@st.composite
def columns_of_like_width(draw: st.DrawFn) -> list[list[str]]:
    """Rows whose columns are written with a fixed number of digits, but for some fields."""
    num_rows, num_columns = draw(st.integers(1, 50)), draw(st.integers(1, 4))
    forms = draw(st.lists(fixed_forms, min_size=num_columns, max_size=num_columns))
    seed, scale = draw(st.integers(0, 2**32)), draw(st.sampled_from([0.1, 1, 4]))
    values = np.random.default_rng(seed).standard_normal((num_rows, num_columns)) * scale
    rows = [[format(value, form) for value, form in zip(row, forms, strict=True)] for row in values.tolist()]
    for _ in range(draw(st.integers(0, 5))):
        rows[draw(st.integers(0, num_rows - 1))][draw(st.integers(0, num_columns - 1))] = draw(numbers)
    return rows


@given(st.lists(numbers, min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_decimal_text_gives_numpys_float32(texts: list[str]) -> None:
    assert_exact(texts)


@given(
    st.lists(st.floats(width=64, allow_nan=False) | st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    st.sampled_from(["r", ".17g", ".9g", ".6g", ".8f", ".3f", ".20e", ".18e", ".17e", ".40f"]),
)
@settings(max_examples=200, deadline=None)
def test_any_float_as_python_writes_it_gives_numpys_float32(values: list[float], form: str) -> None:
    assert_exact([repr(value) if form == "r" else format(value, form) for value in values])


def test_numbers_about_as_long_as_a_machine_word_are_exact() -> None:
    """Every number of digits before and after the dot, up to where an integer of 64 bits has long overflowed."""
    random = np.random.default_rng(5)
    texts = [
        "".join(map(str, random.integers(0, 10, whole))) + "." + "".join(map(str, random.integers(0, 10, fraction)))
        for whole in range(11)
        for fraction in range(1, 28)
        for _ in range(20)
    ]
    assert_exact(texts)


@given(columns_of_like_width(), st.sampled_from(["\n", "\r\n", " \n"]))
@settings(max_examples=200, deadline=None)
def test_columns_of_one_width_and_fields_that_break_it_are_exact(rows: list[list[str]], line_end: str) -> None:
    data = "".join(",".join(row) + line_end for row in rows).encode()
    assert bits(parse(data, list(range(len(rows[0]))))) == expected([field for row in rows for field in row])


@given(st.integers(0, 0x7F7FFFFF), st.booleans())
@settings(max_examples=300, deadline=None)
@example(0, False)  # half of the smallest subnormal: the border between zero and something
@example(0x007FFFFF, False)  # the border between subnormal and normal numbers
@example(0x7F7FFFFF, False)  # the border between the largest number and infinity
@example(0x3F800000, True)
def test_texts_at_and_beside_the_middle_of_two_float32s_are_exact(pattern: int, negative: bool) -> None:
    low = Fraction(float(np.uint32(pattern).view(np.float32)))
    ulp = Fraction(2) ** (max(pattern >> 23, 1) - 150)
    texts = nudged(decimal_text(low + ulp / 2))
    assert_exact([f"-{text}" if negative else text for text in texts])


@given(st.integers(0x00800000, 0x7F000000), st.integers(-2, 2))
@settings(max_examples=300, deadline=None)
def test_texts_that_round_twice_are_rounded_twice(pattern: int, offset: int) -> None:
    """The texts are halfway between two doubles that are at or next to the middle of two float32s."""
    ulp = Fraction(2) ** ((pattern >> 23) - 150)
    middle = Fraction(float(np.uint32(pattern).view(np.float32))) + ulp / 2
    assert_exact(nudged(decimal_text(middle + (Fraction(2 * offset + 1, 2)) * ulp / 2**29)))


@given(st.integers(1, 2**64), st.integers(-70, 50))
@settings(max_examples=300, deadline=None)
def test_integers_times_powers_of_ten_are_exact(mantissa: int, power: int) -> None:
    assert_exact([f"{mantissa}e{power}", f"-{mantissa}E{power}", f"{mantissa}000e{power - 3}"])


def hard_cases() -> list[tuple[str, Fraction]]:
    """Texts of few digits very near to the middle of two float32s, and that middle.

    An odd `p` of 25 bits times `2**b` is such a middle, and `w * 10**e` is very near to it where `w / p` is a
    convergent of `2**b / 10**e`: the way in which the hard cases of the Eisel-Lemire papers are found.
    """
    cases = []
    for power in range(-60, 20):
        for digits in range(9, 20):
            binary = (10 ** (digits + 60 + power)).bit_length() - (10**60).bit_length() - 26
            target = Fraction(2) ** binary / Fraction(10) ** power
            for limit in range(2**24 + 1, 2**25, 2**22):
                near = target.limit_denominator(limit)
                factor = 2**24 // near.denominator + 1
                factor += (factor + 1) % 2
                cases.append((f"{near.numerator * factor}e{power}", near.denominator * factor * Fraction(2) ** binary))
    return [(text, middle) for text, middle in dict(cases).items() if Fraction(2) ** -126 < middle < Fraction(2) ** 127]


def test_hard_cases_from_continued_fractions_are_exact() -> None:
    cases = hard_cases()
    distances = [abs(Fraction(text) / middle - 1) for text, middle in cases]
    assert sum(0 < distance < Fraction(2) ** -56 for distance in distances) > 300  # nearer than a double can tell
    assert_exact([text for text, _ in cases])


EDGE_TEXTS = """
0 -0 +0 0.0 -0.0e5 0e999999999999999999999999 -0e-99999999999999999999999
1e-45 7.0064923216240853e-46 7.0064923216240854e-46 7.0064923216240862e-46 1e-46
1.17549435e-38 1.1754943508222875e-38 1.1754942807573643e-38 1.1754942e-38
3.4028234e38 3.4028235e38 3.40282346638528859e38 3.4028235677973366e38 3.4028235677973367e38 3.4028236e38
1e39 1e308 1e309 -1e400 1e99999999999999999999999999 1e-99999999999999999999999
4.9e-324 2.2250738585072011e-308 1.7976931348623159e308
16777217 16777219 33554434 9007199254740993 9007199791611905 18446744073709551615 18446744073709551616
12345678901234567890123456789012345678901234567890
.5 5. -.5e1 +5.e-1 1E5 1e+05 1e-0005
nan NaN -nan +NAN inf -Inf INFINITY -infinity +inFinIty
"""
LONG_TEXTS = [
    "0" * 60 + "1.5",
    "1." + "5" * 500,
    "0." + "0" * 400 + "1",
    "0." + "0" * 100 + "1e101",
    "1" + "0" * 100 + "e-100",
]


def test_edges_are_exact() -> None:
    assert_exact(EDGE_TEXTS.split() + LONG_TEXTS)


def test_many_unsettled_numbers_are_settled_in_their_own_rows() -> None:
    """More numbers halfway between two float32s than one call leaves to Python, among plain columns."""
    middles = [decimal_text(Fraction(2 * number + 1, 2**48) + 1) + "00000001" * (number % 2) for number in range(900)]
    data = "".join(f"{number},{text},{text},-{number}\n" for number, text in enumerate(middles)).encode()
    rows = parse(data, [0, 1, 2, 3])
    assert bits(rows[:, 1]) == expected(middles)
    assert bits(rows[:, 2]) == expected(middles)
    assert rows[:, 0].tolist() == [float(number) for number in range(900)]
    assert rows[:, 3].tolist() == [-float(number) for number in range(900)]


@pytest.mark.parametrize(
    "data",
    [
        b"1.5,-2\n3,4\n",
        b"1.5,-2\n3,4",  # no line feed at the end
        b"1.5,-2\r\n3,4\r\n",
        b"1.5,-2\r\n3,4\r",
        b" 1.5\t,\t-2 \n\t3 , 4 \t\r\n",
        b'"1.5",-2\n3,"4"\n',
        b' "1.5" ," -2\t"\r\n3,"4"',
        b"\n\r\n1.5,-2\n  \t\n\r\n3,4\n \n\t",  # blank lines
        b"1.5,-2\r\r\n3,4\n",
        b"+1.50,-2.\n3e0,400e-2\n",
        b'"1.5","-2"\n"3","4"\n' + b"\n" * 100,
    ],
)
def test_every_way_to_write_the_same_rows_is_read(data: bytes) -> None:
    assert parse(data, [0, 1]).tolist() == [[1.5, -2.0], [3.0, 4.0]]
    assert parse(data + b"\n" + b"0.25,0.75\n" * 30, [0, 1]).tolist() == [[1.5, -2], [3, 4]] + [[0.25, 0.75]] * 30


@pytest.mark.parametrize(
    ("delimiter", "data"),
    [("\t", b"1\t 2\n3\t4 \n"), (";", b"1;2\n3 ;4"), (" ", b"1 2\r\n3 4\n"), ("|", b'1|"2"\n3|4')],
)
def test_other_delimiters_are_taken(delimiter: str, data: bytes) -> None:
    assert parse(data, [0, 1], delimiter=delimiter).tolist() == [[1, 2], [3, 4]]


def test_only_wanted_columns_are_read_and_put_where_the_layout_says() -> None:
    data = b'a,1,"b, ""c""",2,\n,3,x y,4,"\t"\r\n"",5, " , " ,6,"a,,b" \n'
    assert parse(data * 20, [-1, 1, -1, 0, -1]).tolist() == [[2, 1], [4, 3], [6, 5]] * 20


@given(
    st.lists(st.lists(numbers, min_size=3, max_size=3), max_size=12),
    st.permutations([0, 1, 2]),
    st.sampled_from(["\n", "\r\n", "\n\n", " \r\n\t\n"]),
    st.integers(1, 5),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_rows_parsed_in_pieces_are_the_rows_parsed_at_once(
    rows: list[list[str]], take: list[int], line_end: str, room: int, data: st.DataObject
) -> None:
    lines = [",".join(row) + line_end for row in rows]
    text = "".join(lines).encode()
    buffer = np.frombuffer(text, np.uint8)
    whole = parse(text, take)
    assert bits(whole[:, take]) == expected([field for row in rows for field in row])
    cut = len("".join(lines[: data.draw(st.integers(0, len(lines)))]))
    pieces, position = [], 0
    for stop in (cut, len(text)):
        while position < stop:
            out = np.empty((room, 3), np.float32)
            num_rows, position, _ = parse_rows(buffer, position, stop, layout(take), out)
            pieces.append(out[:num_rows])
    assert bits(np.concatenate([*pieces, np.empty((0, 3))])) == bits(whole)


def test_parsing_stops_when_the_output_is_full_and_says_where() -> None:
    buffer = np.frombuffer(b"1,2\r\n\n3,4\n5,6", np.uint8)
    out = np.zeros((2, 2), np.float32)
    assert parse_rows(buffer, 0, len(buffer), layout([0, 1]), out) == (2, 10, False)
    assert out.tolist() == [[1, 2], [3, 4]]
    assert parse_rows(buffer, 10, len(buffer), layout([0, 1]), out) == (1, len(buffer), False)
    assert parse_rows(buffer, len(buffer), len(buffer), layout([0, 1]), out) == (0, len(buffer), False)
    assert parse_rows(buffer, 0, len(buffer), layout([0, 1]), out[:0]) == (0, 0, False)


ADVICE = "correct the line or leave the column out with --features"
FILL_IN = "fill it in, remove the line, or leave the column out with --features"


@pytest.mark.parametrize(
    ("row", "kind", "field", "message"),
    [
        ("1", "fields", None, "the row has 1 field, expected 2: '1'; correct the line"),
        ("1,2,3", "fields", None, "the row has 3 fields, expected 2: '1,2,3'; correct the line"),
        ("1,2,", "fields", None, "the row has 3 fields, expected 2: '1,2,'; correct the line"),
        ("1,abc", "text", 1, f"field 2 holds 'abc', expected a number; {ADVICE}"),
        ("1_000,2", "text", 0, f"field 1 holds '1_000', expected a number; {ADVICE}"),
        ("1,2.0.0", "text", 1, f"field 2 holds '2.0.0', expected a number; {ADVICE}"),
        ("1, 2 3 ", "text", 1, f"field 2 holds '2 3', expected a number; {ADVICE}"),
        ("1,\x00", "nul", None, "the line holds NUL bytes"),
        ("\x00" * 64, "nul", None, "the line holds NUL bytes"),
        ("1\r,2", "text", 0, f"field 1 holds '1\\r', expected a number; {ADVICE}"),
        ("1,é\xff", "text", 1, f"field 2 holds 'éÿ', expected a number; {ADVICE}"),
        ("x" * 60 + ",1", "text", 0, f"field 1 holds '{'x' * 37}...', expected a number; {ADVICE}"),
        (",2", "empty", 0, f"field 1 is empty, expected a number; {FILL_IN}"),
        ("1, \t", "empty", 1, f"field 2 is empty, expected a number; {FILL_IN}"),
        ('1,""', "empty", 1, f"field 2 is empty, expected a number; {FILL_IN}"),
        ('1,"a,b"', "quote", 1, "field 2 holds '\"a,b\"', but quotes may only enclose one whole number on one line; "),
        ('1,"2', "quote", 1, "field 2 holds '\"2', but quotes may only enclose one whole number on one line; "),
        ('1,"2\n3"', "quote", 1, "field 2 holds '\"2', but quotes may only enclose one whole number on one line; "),
        ('1,2"', "quote", 1, "field 2 holds '2\"', but quotes may only enclose one whole number on one line; "),
        ('"1"5,2', "quote", 0, "field 1 holds '\"1\"5', but quotes may only enclose one whole number on one line; "),
    ],
)
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n" + b"5,6\n" * 20])
def test_a_faulty_row_is_located_and_named(row: str, kind: str, field: int | None, message: str, after: bytes) -> None:
    fault = fault_of(b"1,2\n\n 3,4\r\n" + row.encode() + after, [0, 1])
    assert (fault.kind, fault.field, fault.offset) == (kind, field, 2 + 11)
    assert fault.message.startswith(message)
    assert str(fault) == fault.message


@pytest.mark.parametrize(
    "text", ["-", "+", ".", "-.", "e5", "1e", "1e+", ".e1", "--1", "1-", "0x10", "1e5.0", "in", "infi", "infinit",
             "nanx", "na", "nan(1)", "1f", "1,5e", "\u0661", "1 e5", "NaN0", "--inf", "1__0", "_1", "1d5", "None"]
)  # fmt: skip
def test_what_only_looks_like_a_number_is_refused(text: str) -> None:
    text = text.replace(",", ";")
    assert fault_of(text.encode() + b"\n" + b"1\n" * 40, [0]).kind == "text"
    assert fault_of(text.encode(), [0]).kind == "text"


def test_a_fault_names_the_column_where_names_are_known() -> None:
    fault = fault_of(b"1,2\n3,abc\n", [0, 1])
    assert fault.describe(["x", "y"]) == f"column 'y' holds 'abc', expected a number; {ADVICE}"
    assert (fault.text, fault.num_fields) == ("abc", None)
    assert fault_of(b"1,2,3\n", [0, 1]).num_fields == 3


def test_a_quote_in_the_text_of_an_unwanted_column_is_text_unless_it_opens_a_field_and_never_ends() -> None:
    assert parse(b'1,5" pipe\n2,x\n"a" b"",1\n', [0, -1], room=2).ravel().tolist() == [1, 2]
    assert parse(b'"a" "b,1\n', [-1, 0]).ravel().tolist() == [1]
    assert fault_of(b'"a\nb",1\n', [-1, 0]).field == 0
    assert fault_of(b'3,4,"5\n', [0, 1]).describe(["a", "b"]).startswith("field 3 holds '\"5'")


def test_the_rows_before_a_fault_are_written() -> None:
    buffer = np.frombuffer(b"1,2\n3,4\nabc,6\n", np.uint8)
    out = np.zeros((3, 2), np.float32)
    with pytest.raises(ParseFault):
        parse_rows(buffer, 0, len(buffer), layout([0, 1]), out)
    assert out[:2].tolist() == [[1, 2], [3, 4]]


def test_threads_parse_at_the_same_time() -> None:
    data = b"0.25,-1.5e3\n" * 200_000
    buffer = np.frombuffer(data, np.uint8)
    outs = [np.zeros((200_000, 2), np.float32) for _ in range(4)]
    threads = [
        threading.Thread(target=parse_rows, args=(buffer, 0, len(data), layout([0, 1]), out), name=f"parse {i}")
        for i, out in enumerate(outs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((out == np.array([0.25, -1500], np.float32)).all() for out in outs)


def test_compiling_again_takes_no_time() -> None:
    compile_kernels()
    assert 0 <= compile_kernels() < 0.05
