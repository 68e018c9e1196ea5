"""The upload resource `/files/`: which dialect a request speaks, and who answers.

Rules
-----
- `Tus-Resumable` means tus. Otherwise Upload-Complete, its older opposite, an interop
  version or `application/partial-upload` mean the IETF draft.
- A request that says neither is answered in the dialect that created the upload.
- `X-HTTP-Method-Override` on a POST stands for methods that something in between does
  not let through.
"""

from typing import Final

from aiohttp import hdrs, web

from asyncflow import turns
from asyncflow.errors import UploadNotFound
from asyncflow.web import resumable, tus
from asyncflow.web.bodies import continue_later
from asyncflow.web.intake import upload_id
from asyncflow.web.keys import runtime_key

OVERRIDE: Final = "X-HTTP-Method-Override"


def add_routes(app: web.Application) -> None:
    """Add the upload resource to *app*, with and without a slash at its end."""
    add = app.router.add_route
    for path in ("/files", "/files/"):
        add(hdrs.METH_OPTIONS, path, discover)
        for method in (hdrs.METH_POST, hdrs.METH_PUT, hdrs.METH_PATCH):
            add(method, path, create, expect_handler=continue_later)
    one = "/files/{id}"
    add(hdrs.METH_OPTIONS, one, discover)
    add(hdrs.METH_HEAD, one, look)
    add(hdrs.METH_GET, one, look)
    add(hdrs.METH_PATCH, one, append, expect_handler=continue_later)
    add(hdrs.METH_DELETE, one, end)
    add(hdrs.METH_POST, one, overridden, expect_handler=continue_later)
    mine = f"{app[runtime_key].url_prefix}/files"

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        """Put in what the dialect wants in every answer, refusals included."""
        resource = request.match_info.route.resource
        if resource is None or not resource.canonical.startswith(mine):
            return
        if _is_ietf(request):
            resumable.sign(request, response)
        else:
            tus.sign(response)

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


async def create(request: web.Request) -> web.Response:
    """Create an upload."""
    if _is_ietf(request):
        return await resumable.create(request)
    if request.method != hdrs.METH_POST:
        allowed = (hdrs.METH_POST, hdrs.METH_OPTIONS)
        raise web.HTTPMethodNotAllowed(request.method, allowed)
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


_MEANT: Final = {
    hdrs.METH_HEAD: look,
    hdrs.METH_GET: look,
    hdrs.METH_PATCH: append,
    hdrs.METH_DELETE: end,
}


async def overridden(request: web.Request) -> web.Response:
    """Do what the method in the header says (POST)."""
    handler = _MEANT.get(request.headers.get(OVERRIDE, "").upper())
    if handler is None:
        raise web.HTTPMethodNotAllowed(request.method, [*_MEANT, hdrs.METH_OPTIONS])
    return await handler(request)
