"""The upload resource `/files/`: which dialect a request speaks, and who answers.

Rules
-----
- `Tus-Resumable` means tus. Otherwise Upload-Complete, its older opposite, an interop
  version or `application/partial-upload` mean the IETF draft.
- A request that says neither is answered in the dialect that created the upload.
- `X-HTTP-Method-Override` on a POST is the method, for where something in between does
  not let the real one through. Beside another method it is refused: pages may send some
  of those without asking first.
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from asyncflow import turns
from asyncflow.errors import InvalidHeader, UploadNotFound
from asyncflow.web import resumable, tus
from asyncflow.web.bodies import continue_later
from asyncflow.web.intake import upload_id
from asyncflow.web.keys import runtime_key

OVERRIDE: Final = "X-HTTP-Method-Override"


def add_routes(app: web.Application) -> None:
    """Add the upload resource to *app*, with and without a slash at its end."""
    add = app.router.add_route
    for path in ("/files", "/files/"):
        for method in _OF_ALL:
            add(method, path, collection, expect_handler=continue_later)
    for method in (*_OF_ONE, hdrs.METH_POST):
        add(method, "/files/{id}", one, expect_handler=continue_later)
    prefix = app[runtime_key].url_prefix

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        """Put in what the dialect wants in every answer, refusals included."""
        path = request.path.removeprefix(prefix)
        if path == "/files" or path.startswith("/files/"):
            # an answer of today says nothing about tomorrow's offset
            response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
            if not _is_ietf(request):
                tus.sign(request, response)
                return
        elif not path.startswith("/upload") or not resumable.begins_here(request):
            return
        resumable.sign(request, response)

    app.on_response_prepare.append(sign)


def _is_ietf(request: web.Request) -> bool:
    return tus.RESUMABLE not in request.headers and resumable.speaks(request)


async def _was_ietf(request: web.Request) -> bool:
    """Tell whether a request is in the draft, or else whether its upload began so."""
    if tus.RESUMABLE in request.headers:
        return False
    if resumable.speaks(request):
        return True
    try:
        row = await request.app[runtime_key].db.find_upload(upload_id(request))
    except UploadNotFound:
        return False
    return row.dialect == turns.IETF


async def discover(request: web.Request) -> web.Response:
    """Say what this server can do (OPTIONS)."""
    headers = {**tus.discovery(request), **resumable.discovery(request)}
    return web.Response(headers={**headers, hdrs.CACHE_CONTROL: "no-store"})


async def discover_one(request: web.Request) -> web.Response:
    """Say what this server can do with an upload (OPTIONS)."""
    upload_id(request)
    return await discover(request)


async def create(request: web.Request) -> web.Response:
    """Create an upload."""
    if _is_ietf(request):
        return await resumable.create(request)
    if _meant(request) != hdrs.METH_POST:
        allowed = (hdrs.METH_POST, hdrs.METH_OPTIONS)
        raise web.HTTPMethodNotAllowed(_meant(request), allowed)
    return await tus.create(request)


async def look(request: web.Request) -> web.Response:
    """Tell the offset."""
    is_ietf = await _was_ietf(request)
    return await (resumable.look(request) if is_ietf else tus.look(request))


async def append(request: web.Request) -> web.Response:
    """Append bytes."""
    is_ietf = _is_ietf(request)
    return await (resumable.append(request) if is_ietf else tus.append(request))


async def end(request: web.Request) -> web.Response:
    """End an unfinished upload."""
    is_ietf = await _was_ietf(request)
    return await (resumable.cancel(request) if is_ietf else tus.terminate(request))


_OF_ALL: Final[Mapping[str, Handler]] = {
    hdrs.METH_OPTIONS: discover,
    hdrs.METH_POST: create,
    hdrs.METH_PUT: create,
    hdrs.METH_PATCH: create,
}
_OF_ONE: Final[Mapping[str, Handler]] = {
    hdrs.METH_OPTIONS: discover_one,
    hdrs.METH_HEAD: look,
    hdrs.METH_GET: look,
    hdrs.METH_PATCH: append,
    hdrs.METH_DELETE: end,
}


def _meant(request: web.Request) -> str:
    """Return the method, or the one that a POST stands for."""
    said = request.headers.getall(OVERRIDE, [])
    if not said:
        return request.method
    if request.method != hdrs.METH_POST or len(said) > 1:
        raise InvalidHeader(OVERRIDE, ", ".join(said), accepted="one, on a POST alone")
    return said[0].upper()


async def collection(request: web.Request) -> web.StreamResponse:
    """Do what the method says, of all uploads."""
    return await _do(request, _OF_ALL)


async def one(request: web.Request) -> web.StreamResponse:
    """Do what the method says, of one upload."""
    return await _do(request, _OF_ONE)


async def _do(
    request: web.Request, handlers: Mapping[str, Handler]
) -> web.StreamResponse:
    handler = handlers.get(_meant(request))
    if handler is None:
        raise web.HTTPMethodNotAllowed(_meant(request), list(handlers))
    return await handler(request)
