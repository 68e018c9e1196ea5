"""Bodies whose digest is compared while they are read (RFC 9530, Content-Digest).

For bodies that are more than one file: of what is one file and nothing else the upload
engine sees to it, which reads what was stored.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final

from aiohttp import web

from asyncflow.errors import DigestMismatch
from asyncflow.turns import Claims
from asyncflow.web import fields
from asyncflow.web.bodies import BodyReader
from asyncflow.web.intake import WRONG_BODY, digests_of
from asyncflow.web.trailers import announces

CONTENT_DIGEST: Final = "Content-Digest"


class Digested:
    """A body that is hashed as it is read."""

    def __init__(self, request: web.Request, body: BodyReader) -> None:
        self._claims = digests_of(request)
        self._body = body
        self._hashers = {name: hashlib.new(name) for name in fields.DIGESTS.values()}
        if self._claims.is_certain:
            known = {said.algorithm for said in self._claims.part()}
            self._hashers = {name: self._hashers[name] for name in known}

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end."""
        piece = await self._body.read()
        for hasher in self._hashers.values():
            hasher.update(piece)
        return piece

    def stop(self, error: Exception) -> None:
        """Make the read that waits now, or the next one, raise *error*."""
        self._body.stop(error)

    def check(self) -> None:
        """Return if the body, which has ended, has the digest that was said, if any.

        Raises:
            DigestMismatch: it has another.
        """
        _compare(self._claims, lambda name: self._hashers[name].digest())


def _compare(claims: Claims, digest_by: Callable[[str], bytes]) -> None:
    if any(digest_by(said.algorithm) != said.value for said in claims.part()):
        raise DigestMismatch(WRONG_BODY)


def digested(request: web.Request, body: BodyReader) -> Digested | None:
    """Return what reads *body* and compares its digest; None: it is not to have one.

    A digest behind the body counts if the request announces it: without that, what
    comes first would have to wait for a digest that hardly anybody sends.
    """
    is_said = digests_of(request).is_certain or announces(request, CONTENT_DIGEST)
    return Digested(request, body) if is_said else None


def check_nothing(request: web.Request) -> None:
    """Return if an empty body, which is a whole file, has the digests that were said.

    Raises:
        DigestMismatch: it has others.
    """
    claims = digests_of(request)
    _compare(claims, lambda name: hashlib.new(name).digest())
    if any(hashlib.new(one.algorithm).digest() != one.value for one in claims.whole()):
        raise DigestMismatch


async def check_body(request: web.Request, body: bytes | bytearray) -> None:
    """Return if a whole *body*, which has ended, has the digest that was said, if any.

    Raises:
        DigestMismatch: it has another.
    """
    claims = digests_of(request)
    if claims.part():
        await asyncio.to_thread(
            _compare, claims, lambda name: hashlib.new(name, body).digest()
        )
