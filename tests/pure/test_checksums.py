"""The table of checksums, the rule for the offset, and trailers of chunked bodies."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, none, sampled_from

from asyncflow import uploads
from asyncflow.errors import HeadTooLarge, MalformedRequest
from asyncflow.uploads import CHECKSUMS, Checksum
from asyncflow.web.trailers import TRAILER_BYTES, ChunkedBody


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


BODY = b"3\r\nabc\r\n1c;x=y\r\n" + b"\r\n\r\n0\r\nA: 1\r\n\r\n1234567890123" + b"\r\n"
BEHIND = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def followed(*pieces: bytes, most_fields: int = 100) -> ChunkedBody:
    body = ChunkedBody(most_fields)
    for piece in pieces:
        fed(body, piece)
    return body


def fed(body: ChunkedBody, data: bytes) -> tuple[bytes, bytes]:
    """Feed *data*; return what it passed on and what it left."""
    at, passed = 0, b""
    while at < len(data) and not (body.is_over or body.wrong):
        at, piece = body.feed(data, at)
        passed += piece
    return passed, data[at:]


def test_trailers_are_found_and_taken_out_however_they_are_cut() -> None:
    raw = BODY + b"0\r\nUpload-Checksum: md5 x\r\nX-Other:  1 \r\n\r\n"
    for at in range(len(raw)):
        body = ChunkedBody(100)
        first, rest = fed(body, raw[:at])
        assert (body.is_over, rest) == (False, b"")
        second, rest = fed(body, raw[at:] + BEHIND)
        assert first + second == BODY + b"0\r\n\r\n"
        assert (body.is_over, rest) == (True, BEHIND)
        assert dict(body.fields) == {"Upload-Checksum": "md5 x", "X-Other": "1"}


def test_a_field_may_come_twice() -> None:
    body = followed(b"0\r\nA: 1\r\na: 2\r\n\r\n")
    assert body.fields.getall("A") == ["1", "2"]


def test_a_body_may_have_no_trailers() -> None:
    body = followed(BODY, b'000;a="b:c"\r\n\r\n', BEHIND)
    assert body.is_over
    assert not body.fields


@pytest.mark.parametrize("raw", [b"0\r\nA: 1\r\n", b"x\r\n\r\n", b"\r\n\r\n", b""])
def test_what_is_no_whole_body_is_never_over(raw: bytes) -> None:
    assert not followed(raw, BEHIND[:5]).is_over


def test_what_is_no_body_is_left_to_the_parser() -> None:
    for raw in (b"x\r\n\r\n" + BEHIND, b"1;" + b"x" * 2 * TRAILER_BYTES):
        body = ChunkedBody(100)
        assert fed(body, raw) == (raw, b"")
        assert not body.is_over


@pytest.mark.parametrize("line", [b"A: 1\n", b" A: 1\r\n", b"A 1\r\n", b"A: \x01\r\n"])
def test_a_malformed_trailer_is_wrong(line: bytes) -> None:
    body = followed(b"0\r\n" + line + b"\r\n")
    assert isinstance(body.wrong, MalformedRequest)


def test_more_trailers_than_anybody_needs_are_wrong() -> None:
    many = b"0\r\n" + b"".join(b"A%d: 1\r\n" % n for n in range(11))
    assert not followed(many, most_fields=11).wrong
    assert isinstance(followed(many, most_fields=10).wrong, HeadTooLarge)
    for end in (b"", b"\r\n\r\n"):
        body = followed(b"0\r\nA: " + b"x" * TRAILER_BYTES + end)
        assert isinstance(body.wrong, HeadTooLarge)
