"""The table of checksums, the rule for the offset, and trailers read backwards."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, none, sampled_from

from asyncflow import uploads
from asyncflow.uploads import CHECKSUMS, Checksum
from asyncflow.web.trailers import TAIL_BYTES, Tail


@given(data=binary(), name=sampled_from(sorted(CHECKSUMS)), at=integers(0, 100))
def test_a_checksum_does_not_depend_on_how_the_bytes_come(
    data: bytes, name: str, at: int
) -> None:
    hasher = CHECKSUMS[name]()
    hasher.update(data[:at])
    hasher.update(data[at:])
    expected = (
        zlib.crc32(data).to_bytes(4, "big")
        if name == "crc32"
        else hashlib.new(name, data, usedforsecurity=False).digest()
    )
    assert hasher.digest() == expected


@given(value=binary(), name=sampled_from(sorted(CHECKSUMS)))
def test_a_stored_checksum_is_read_as_it_was(value: bytes, name: str) -> None:
    one = Checksum(algorithm=name, value=value)
    assert Checksum.parse(str(one)) == one


@given(
    size=integers(0, 100),
    length=none() | integers(0, 100),
    checked_from=none() | integers(0, 100),
)
def test_an_offset_is_never_beyond_what_counts(
    size: int, length: int | None, checked_from: int | None
) -> None:
    offset = uploads.offset_of(size, length=length, checked_from=checked_from)
    bounds = {size, length, checked_from} - {None}
    assert offset in bounds
    assert all(offset <= bound for bound in bounds if bound is not None)


def fields(*pieces: bytes) -> dict[str, str]:
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    return dict(tail.fields())


def test_trailers_are_found_however_they_are_cut() -> None:
    raw = b"3\r\nabc\r\n0\r\nUpload-Checksum: md5 x\r\nX-Other:  1 \r\n\r\n"
    expected = {"upload-checksum": "md5 x", "x-other": "1"}
    for at in range(len(raw)):
        assert fields(raw[:at], raw[at:]) == expected
    assert fields(b"y" * 3 * TAIL_BYTES, raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nA: 1\r\n",
        b"3\r\nabc\r\n0\r\nA: 1\r\nA: 2\r\n\r\n",
        b"3\r\nabc\r\n0\r\nno field\r\n\r\n",
        b"3\r\nabc\r\n5\r\nA: 1\r\n\r\n",
        b"0\r\nA: 1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"0\r\nA: " + b"x" * TAIL_BYTES + b"\r\n\r\n",
    ],
)
def test_what_is_not_surely_a_trailer_is_none(raw: bytes) -> None:
    assert fields(raw) == {}


def test_a_last_chunk_may_have_an_extension() -> None:
    assert fields(b'000;a="b:c"\r\nA: 1\r\n\r\n') == {"a": "1"}
