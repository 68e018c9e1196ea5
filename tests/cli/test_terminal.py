import unicodedata

import pytest
from hypothesis import given, strategies as st

from asyncflow.cli.terminal import clean, name_of, shorten, size_text, time_text


@given(st.text())
def test_a_cleaned_name_does_nothing(text: str) -> None:
    shown = name_of(text)

    assert {unicodedata.category(char) for char in shown} <= {
        unicodedata.category(char) for char in text
    } - {"Cc", "Cs", "Zl", "Zp"} | {"Po", "Ll", "Lu", "Nd"}
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photo.jpg", "photo.jpg"),
        ("été 🏔️.jpg", "été 🏔️.jpg"),
        ("👨‍👩‍👧.png", "👨‍👩‍👧.png"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_only_active_characters_are_escaped(text: str, shown: str) -> None:
    assert name_of(text) == shown


def test_lines_may_stay_in_texts_of_ours() -> None:
    assert clean("one\ntwo\r") == "one\ntwo\\r"


@given(st.text(), st.integers(min_value=3, max_value=60))
def test_a_shortened_text_fits(text: str, width: int) -> None:
    short = shorten(text, width)

    assert len(short) <= width
    assert (short == text) == (len(text) <= width)


def test_a_long_name_keeps_its_ending() -> None:
    assert shorten("a" * 50 + ".jpeg", 12) == "aaaaa…a.jpeg"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_are_said_in_words(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12, "12 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_said_in_words(seconds: float, text: str) -> None:
    assert time_text(seconds) == text
