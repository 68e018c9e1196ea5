"""Base64 in a string of JSON, decoded as it is read."""

import base64
import json
import random

import pytest

from asyncflow.errors import BodyTooLarge, InvalidParameter
from asyncflow.web.base64body import MOST_BESIDE, PIECE, Base64Body, split

CHANCE = random.Random(11)


async def whole(body: Base64Body) -> list[bytes]:
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    return pieces


def escaped(text: str) -> str:
    """Escape some characters in one of the ways that JSON knows."""
    ways = (str, lambda c: f"\\u{ord(c):04x}", lambda c: f"\\u{ord(c):04X}")
    some = (CHANCE.choice(ways)(c) if CHANCE.random() < 0.2 else c for c in text)
    return "".join(some)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, PIECE, PIECE + 1, 3 * PIECE + 7])
@pytest.mark.parametrize("shape", [str, escaped], ids=["plain", "escaped"])
async def test_what_is_read_is_what_was_encoded(size: int, shape: object) -> None:
    assert callable(shape)
    data = CHANCE.randbytes(size)
    text = shape(base64.b64encode(data).decode())
    said = bytearray(f'{{"a": 1, "chunk" :"{text}", "b": "x"}}'.encode())
    beside, body = split(said, "chunk")
    assert json.loads(beside) == {"a": 1, "chunk": "", "b": "x"}
    pieces = await whole(body)
    assert b"".join(pieces) == data
    # nothing that is done in one go takes long
    assert all(len(piece) <= PIECE for piece in pieces)


@pytest.mark.parametrize(
    "text",
    [
        '{"x": "chunk", "y": 1}',
        '{"a\\"chunk":"QQ=="}',
        '{"x": "\\"chunk\\":\\"QQ==\\""}',
        '{"chunk": 5}',
        "{}",
    ],
)
def test_what_only_looks_like_the_bytes_stays_json(text: str) -> None:
    beside, _body = split(bytearray(text.encode()), "chunk")
    found = json.loads(beside)
    assert found == json.loads(text) or list(found) == ['a"chunk']


def test_so_much_may_stand_beside_the_bytes_and_no_more() -> None:
    full = bytearray(b'{"chunk":"QQ==","x":"' + b"x" * MOST_BESIDE + b'"}')
    with pytest.raises(BodyTooLarge):
        split(full, "chunk")
    late = bytearray(b" " * MOST_BESIDE + b'{"chunk":"QQ=="}')
    with pytest.raises(BodyTooLarge):
        split(late, "chunk")


@pytest.mark.parametrize(
    "text",
    ["A" * (PIECE - 2) + "==" + "A" * PIECE, "A" * 3 * PIECE + "-AAA", "A" * 5 + "\\"],
    ids=["padding", "character", "escape"],
)
async def test_what_is_no_base64_is_refused_wherever_it_is(text: str) -> None:
    body = Base64Body("chunk", bytearray(text.encode()), 0, len(text))
    with pytest.raises(InvalidParameter, match="base64"):
        await whole(body)


async def test_a_body_that_is_stopped_says_why() -> None:
    _, body = split(bytearray(b'{"chunk":"QQ=="}'), "chunk")
    body.stop(InvalidParameter("x", None, accepted="y"))
    with pytest.raises(InvalidParameter):
        await body.read()
