import asyncio
import itertools
import time

import aiohttp
import pytest
from hypothesis import given, settings, strategies as st
from urllib3.fields import RequestField
from urllib3.filepost import encode_multipart_formdata

from asyncflow.errors import InvalidMultipart, ShuttingDown
from asyncflow.web.formdata import MAX_AROUND, MAX_PART_HEAD, MAX_PARTS, FormReader

Parts = list[tuple[str | None, str | None, bytes]]


class Pieces:
    """A body in given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = list(pieces)

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def stop(self, error: Exception) -> None:
        raise error


class Stalled:
    """A body that never comes."""

    def __init__(self, first: bytes) -> None:
        self._first = [first]
        self._more: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(self) -> bytes:
        return self._first.pop() if self._first else await self._more

    def stop(self, error: Exception) -> None:
        self._more.set_exception(error)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places) if b > a]


async def read_all(pieces: list[bytes], content_type: str) -> Parts:
    form = FormReader(Pieces(pieces), content_type)
    found: Parts = []
    while (part := await form.next_part()) is not None:
        data = b""
        while piece := await part.read():
            data += piece
        assert part.received == len(data)
        found.append((part.name, part.file_name, data))
    return found


def parse(pieces: list[bytes], content_type: str) -> Parts:
    return asyncio.run(read_all(pieces, content_type))


#: bytes that are nearly delimiters
tricky = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"\r\n--", b"edge", b"\r\n--edg", b"x", b"\0"])
).map(b"".join)
contents = st.one_of(st.binary(max_size=300), tricky)
names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\;%'),
    min_size=1,
    max_size=20,
)


@given(
    files=st.lists(st.tuples(names, contents), max_size=4),
    cuts=st.lists(st.integers(0, 5000), max_size=30),
)
@settings(max_examples=150)
def test_any_split_of_a_form_by_urllib3_gives_its_files(
    files: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    fields = []
    for name, data in files:
        field = RequestField("file", data, filename=name)
        field.make_multipart(content_type="image/png")
        fields.append(field)
    body, kind = encode_multipart_formdata(fields, boundary="edge-of-the-form")
    expected: Parts = [("file", name, data) for name, data in files]
    if not files:
        return
    assert parse(split(body, cuts), kind) == expected


@given(data=contents, name=names, cuts=st.lists(st.integers(0, 5000), max_size=30))
@settings(max_examples=80)
def test_any_split_of_a_form_by_aiohttp_gives_its_fields(
    data: bytes, name: str, cuts: list[int]
) -> None:
    async def write() -> tuple[bytes, str]:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("title", "words")
        form.add_field("file", data, filename=name, content_type="text/plain")
        payload = form()
        return await payload.as_bytes(), payload.headers["Content-Type"]

    body, kind = asyncio.run(write())
    found = parse(split(body, cuts), kind)
    assert found == [("title", None, b"words"), ("file", name, data)]


def test_a_form_read_byte_by_byte_gives_its_files() -> None:
    body, kind = encode_multipart_formdata({"file": ("a", b"\r\n--b\r\n-")}, "b-b")
    pieces = [bytes([byte]) for byte in body]
    assert parse(pieces, kind) == [("file", "a", b"\r\n--b\r\n-")]


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=edge",
        'multipart/form-data; boundary="edge"',
        "Multipart/Form-Data;charset=utf-8;Boundary=edge",
        'multipart/form-data; x="a;b"; boundary=edge; y=z',
    ],
)
def test_the_boundary_is_found_however_it_is_written(kind: str) -> None:
    body = b"--edge\r\n\r\nbare\r\n--edge--"
    assert parse([body], kind) == [(None, None, b"bare")]


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 300,
        "multipart/mixed; boundary=edge",
    ],
)
def test_a_form_without_a_boundary_is_refused(kind: str) -> None:
    if len(kind) > 300:  # a boundary that long is cut by nobody: it is not found
        kind = kind.replace("=", '="', 1) + '"'
    with pytest.raises(InvalidMultipart, match="boundary"):
        parse([b""], kind)


KIND = "multipart/form-data; boundary=edge"
OPEN = b"--edge\r\n"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "ends"),
        (b"no form at all", "ends"),
        (bytes(MAX_AROUND + 1000), "does not begin"),
        (OPEN, "ends"),
        (OPEN + b"A: b", "ends"),
        (OPEN + b"A: b\r\n\r\nbytes", "ends inside a part"),
        (OPEN + b"A: b\r\n\r\nbytes\r\n--edg", "ends inside a part"),
        (OPEN + b"A: b\r\n\r\nbytes\r\n--edge", "ends after a boundary"),
        (b"--edgeling\r\n\r\nbytes\r\n--edge--", "other characters"),
        (OPEN + b"no colon\r\n\r\nbytes\r\n--edge--", "malformed"),
        (OPEN + b"A: nul\0\r\n\r\nbytes\r\n--edge--", "malformed"),
        (OPEN + b"A: " + b"x" * 100_000, "head of a part is larger"),
        (
            OPEN + b"A: " + b"x" * MAX_PART_HEAD + b"\r\n\r\n",
            "head of a part is larger",
        ),
        (b"--edge" + b" " * 100_000, "no end of line"),
        (
            OPEN + b"\r\n\r\n--edge--" + bytes(MAX_AROUND + 1000),
            "too many bytes follow",
        ),
    ],
)
@pytest.mark.parametrize("size", [7, 10**6])
def test_what_is_no_form_is_refused_with_the_reason(
    body: bytes, why: str, size: int
) -> None:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    with pytest.raises(InvalidMultipart, match=why):
        parse(pieces, KIND)


def test_a_form_of_too_many_parts_is_refused() -> None:
    body = OPEN + b"\r\n\r\n--edge\r\n" * MAX_PARTS * 10
    with pytest.raises(InvalidMultipart, match=f"more than {MAX_PARTS} parts"):
        parse([body], KIND)


def test_a_header_full_of_spaces_costs_no_more_than_another() -> None:
    head = b"A: x" + b" " * (MAX_PART_HEAD - 100) + b"x"
    body = (OPEN + head + b"\r\n\r\n\r\n") * 100 + b"--edge--"
    began = time.process_time()
    assert len(parse([body], KIND)) == 100
    assert time.process_time() - began < 2.0


async def test_a_part_that_is_stopped_wakes_who_waits_for_its_bytes() -> None:
    form = FormReader(Stalled(OPEN + b"\r\nsome bytes"), KIND)
    part = await form.next_part()
    assert part is not None
    assert await part.read()
    waiting = asyncio.create_task(part.read())
    await asyncio.sleep(0)
    part.stop(ShuttingDown())
    with pytest.raises(ShuttingDown):
        await waiting
