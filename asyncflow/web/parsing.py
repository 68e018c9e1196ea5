"""Read numbers, names and metadata from requests, strictly.

`int()` takes `1_000`, ` 7`, `+7` and other scripts' digits; a protocol that counts
bytes must not.
"""

import base64
import json
import math
import re
from collections.abc import Hashable, Mapping
from functools import cache
from typing import TypeVar, cast
from urllib.parse import unquote

import msgspec
from aiohttp import web
from multidict import CIMultiDictProxy

from asyncflow.errors import (
    InvalidHeader,
    InvalidParameter,
    UnsupportedContentEncoding,
    UnsupportedTransferCoding,
)
from asyncflow.nesting import MOST_LEVELS, is_too_deep

T = TypeVar("T")

_NUMBER = re.compile(r"[0-9]{1,15}")
_FRACTIONAL = re.compile(rb"\s*-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*")
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
MAX_METADATA = 8192
#: up to here each whole number is one that a float can be
MOST_EXACT = 2.0**53
#: a number of fewer digits and without an exponent like this one is read everywhere
MOST_DIGITS = 300
#: what is said of why a body is not accepted: it may quote the body
MOST_SHOWN = 300
_LARGE = re.compile(rb"[eE]\+?[0-9]{3}")


def number_header(headers: CIMultiDictProxy[str], name: str) -> int | None:
    """Return the header as a number of bytes; None: absent. Raise InvalidHeader."""
    values = headers.getall(name, [])
    if not values:
        return None
    if len(values) > 1 or not _NUMBER.fullmatch(values[0]):
        raise InvalidHeader(
            name, ", ".join(values), accepted="one whole number of up to 15 digits"
        )
    return int(values[0])


def needed_number_header(headers: CIMultiDictProxy[str], name: str) -> int:
    """Return the header as a number of bytes. Raise InvalidHeader if absent."""
    value = number_header(headers, name)
    if value is None:
        raise InvalidHeader(name, None, accepted="one whole number of up to 15 digits")
    return value


def number_parameter(
    request: web.Request, name: str, *, default: int, least: int, most: int
) -> int:
    """Return a query parameter as a number. Raise InvalidParameter."""
    values = request.query.getall(name, [])
    if not values:
        return default
    text = ", ".join(values)
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        accepted = f"a whole number from {least} to {most}"
        raise InvalidParameter(name, text, accepted=accepted)
    return int(text)


def json_body(decoder: msgspec.json.Decoder[T], body: bytes | bytearray) -> T:
    """Return what *body* says. Raise InvalidParameter."""
    try:
        # the decoder does not look into what it leaves as it is, see `_keeps`
        body.decode()
        found = _decoded(decoder, body)
        keeps = _keeps(cast("Hashable", decoder.type))
        is_deep = keeps and is_too_deep(body, outside=1)
        if keeps and not is_deep and (len(body) > MOST_DIGITS or _LARGE.search(body)):
            # a function reads it so, and not a whole number that is longer
            json.loads(body, parse_float=_finite)
    except RecursionError:
        raise _refused(f"it has more than {MOST_LEVELS} levels") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _refused(str(error)) from None
    if is_deep:
        raise _refused(f"it has more than {MOST_LEVELS} levels")
    return found


@cache
def _keeps(kind: Hashable) -> bool:
    """Tell whether an object of this type has members that stay as they came."""
    about = msgspec.inspect.type_info(kind)
    fields = about.fields if isinstance(about, msgspec.inspect.StructType) else ()
    return any(_is_raw(field.type) for field in fields)


def _is_raw(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(_is_raw(one) for one in kind.types)
    return isinstance(kind, msgspec.inspect.RawType)


def _finite(text: str) -> float:
    """Read a number. Raise ValueError where a float would make it infinite."""
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"a number is out of range: {text[:40]}")
    return found


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes | bytearray) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        # 1.0 and 1e2 are integers to JSON Schema, by which our resources are described
        plain = _with_plain_integers(decoder, body)
        if plain is None:
            raise
        return decoder.decode(plain)


def _with_plain_integers(
    decoder: msgspec.json.Decoder[T], body: bytes | bytearray
) -> bytes | None:
    """Return *body* with integers written as such; None: they are, as far as known.

    Only where the object itself has an integer: what lies deeper stays as it is.
    """
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    about = msgspec.inspect.type_info(decoder.type)
    if not isinstance(about, msgspec.inspect.StructType):
        return None
    wanted = [one.encode_name for one in about.fields if _is_integer(one.type)]
    found = {
        name: number
        for name in wanted
        if name in members and (number := _whole(bytes(members[name]))) is not None
    }
    return msgspec.json.encode({**members, **found}) if found else None


def _is_integer(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(isinstance(one, msgspec.inspect.IntType) for one in kind.types)
    return isinstance(kind, msgspec.inspect.IntType)


def _whole(text: bytes) -> int | None:
    """Return a number that has a fraction or an exponent and is whole all the same."""
    if not _FRACTIONAL.fullmatch(text):
        return None
    number = float(text)
    return int(number) if abs(number) < MOST_EXACT and number.is_integer() else None


def _refused(why: str) -> InvalidParameter:
    accepted = "JSON as the description of this resource has it"
    said = f"The body is not accepted: {why[:MOST_SHOWN]}."
    return InvalidParameter("body", None, accepted=accepted, why=said)


def refuse_encoding(request: web.Request) -> None:
    """Refuse a body that is not the file itself.

    RFC 9110 section 8.4, RFC 9112 section 6.1.
    """
    coding = ", ".join(request.headers.getall("Transfer-Encoding", []))
    if coding.strip().lower() not in {"", "chunked"}:
        raise UnsupportedTransferCoding(
            f"Transfer-Encoding is {coding[:40]!r}; only chunked is known here"
        )
    encoding = ", ".join(request.headers.getall("Content-Encoding", []))
    if encoding.strip().lower() not in {"", "identity"}:
        raise UnsupportedContentEncoding(
            f"Content-Encoding is {encoding[:40]!r}; send the file as it is"
        )


def tus_metadata(headers: CIMultiDictProxy[str]) -> tuple[str, Mapping[str, str]]:
    """Return Upload-Metadata as it came and decoded (tus 1.0, Upload-Metadata).

    Bytes that are not UTF-8 are kept readable with replacement characters.
    """
    name, values = "Upload-Metadata", headers.getall("Upload-Metadata", [])
    raw = ",".join(values)
    if len(raw) > MAX_METADATA:
        raise InvalidHeader(name, raw, accepted=f"at most {MAX_METADATA} characters")
    return raw, read_metadata(raw)


def read_metadata(raw: str) -> Mapping[str, str]:
    """Return the pairs of an Upload-Metadata. Raise InvalidHeader."""
    name = "Upload-Metadata"
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in raw.split(","))):
        key, _space, encoded = pair.partition(" ")
        if not _KEY.fullmatch(key) or key in found:
            accepted = "pairs of a unique ASCII key and a base64 value"
            raise InvalidHeader(name, pair, accepted=accepted)
        try:
            value = base64.b64decode(encoded.strip(), validate=True)
        except ValueError:  # binascii.Error, and characters beyond ASCII
            raise InvalidHeader(name, pair, accepted="base64 values") from None
        found[key] = value.decode("utf-8", "replace")
    return found


def shown_metadata(pairs: Mapping[str, str]) -> str:
    """Return an Upload-Metadata that holds *pairs*."""
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}"
        for key, value in pairs.items()
    )


_EXTENDED = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;]+)", re.IGNORECASE)
_PLAIN = re.compile(
    r""";\s*(name|filename)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^;\s"]+))""", re.IGNORECASE
)


def content_disposition(value: str) -> tuple[str | None, str | None]:
    """Return `name` and `filename` of a Content-Disposition (RFC 6266, RFC 7578).

    Browsers escape a quote as `%22` and a line break as `%0D%0A`; other percent signs
    are part of the name.
    """
    found = {
        m[1].lower(): m[3] if m[2] is None else m[2] for m in _PLAIN.finditer(value)
    }
    extended = _EXTENDED.search(value)
    if extended:
        found["filename"] = unquote(extended[1].strip(), errors="replace")
    elif "filename" in found:
        plain = re.sub(r'\\(["\\])', r"\1", found["filename"])
        found["filename"] = re.sub("%22", '"', plain)
    return found.get("name"), found.get("filename")
