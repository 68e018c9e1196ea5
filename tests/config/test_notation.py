"""Sizes, durations, lists and addresses as people write them."""

import pytest
from hypothesis import given, strategies as st

from asyncflow import notation


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("0", 0),
        ("5GiB", 5 << 30),
        ("200MB", 200_000_000),
        ("64 kib", 65536),
        ("1.5GiB", 3 << 29),
        (" 7B ", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_a_size_is_read(text: str, count: int) -> None:
    assert notation.parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "1_000",
        "\u0661\u0662",
        "",
        "5G",
        "GiB",
        "-1",
        "1.5",
        "5 GiB s",
        "1e9",
        "inf",
        "9" * 400 + "TB",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole"):
        notation.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90", 90.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        ("30m", 1800.0),
        ("24h", 86400.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("250ms", 0.25),
        (" 1H ", 3600.0),
    ],
)
def test_a_duration_is_read(text: str, span: float) -> None:
    assert notation.parse_seconds(text) == pytest.approx(span)


@pytest.mark.parametrize(
    "text", ["1_000", " ", "1e3", "+5", "\u0661\u0662", "5.0", "9" * 16]
)
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        notation.parse_number(text)


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5x", "1h 30", "nan", "h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        notation.parse_seconds(text)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_shown_is_read_back(count: int) -> None:
    assert notation.parse_bytes(notation.shown_bytes(count)) == count


@given(st.integers(min_value=1, max_value=10_000_000))
def test_a_duration_shown_is_read_back(span: int) -> None:
    assert notation.parse_seconds(notation.shown_seconds(float(span))) == float(span)


def test_durations_read_as_people_say_them() -> None:
    shown = [notation.shown_seconds(s) for s in (10.0, 60.0, 75.0, 5400.0, 86400.0)]
    assert shown == ["10s", "60s", "75s", "90m", "24h"]


def test_a_list_is_split_at_commas() -> None:
    assert notation.split_words(" a, b,,c ") == ("a", "b", "c")
    assert notation.split_words("") == ()


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "null",
        "app.example.org",
        "ftp://example.org",
        "https://example.org/path",
        "https://user@example.org",
        "https://example.org:99999",
        "https://exa mple.org",
    ],
)
def test_what_is_no_origin_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        notation.check_origins((value,))


def test_a_base_address_loses_its_last_slash() -> None:
    url = notation.check_base_url("https://files.example.org/up/")
    assert url == "https://files.example.org/up"
