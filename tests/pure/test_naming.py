"""How file names are cut to what a file system takes."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from asyncflow.naming import MAX_BYTES, fitted, longest_in, parted, size_of

names = st.text(max_size=300) | st.integers(1, 300).map(lambda count: "é" * count)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("photo.jpg", ("photo", ".jpg")),
        ("backup.tar.gz", ("backup.tar", ".gz")),
        (".profile", (".profile", "")),
        ("ends.", ("ends.", "")),
        ("none", ("none", "")),
        ("A sentence." + "x" * 40, ("A sentence." + "x" * 40, "")),
    ],
)
def test_a_suffix_is_what_follows_the_last_full_stop(
    name: str, parts: tuple[str, str]
) -> None:
    assert parted(name) == parts


@given(names, st.sampled_from(["", ".jpg", "-thumbnail.webp", " (2).jpg"]))
def test_what_is_fitted_is_short_enough_and_keeps_its_end(name: str, end: str) -> None:
    cut = fitted(name, end)
    assert size_of(cut) <= MAX_BYTES
    assert cut.endswith(end)
    assert name.startswith(cut.removesuffix(end))
    if size_of(name + end) <= MAX_BYTES:
        assert cut == name + end


@given(names)
def test_the_parts_of_a_name_make_it_up(name: str) -> None:
    assert "".join(parted(name)) == name


def test_bytes_that_are_no_text_have_a_size_too() -> None:
    assert size_of(b"\xff.jpg".decode(errors="surrogateescape")) >= 5


def test_a_folder_that_is_not_there_takes_what_others_take(tmp_path: Path) -> None:
    assert longest_in(tmp_path / "nowhere") == MAX_BYTES
    (tmp_path / ("n" * longest_in(tmp_path))).touch()
