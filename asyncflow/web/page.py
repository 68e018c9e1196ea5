"""The pages for people and their assets: our own scripts and styles, nobody else's."""

from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from asyncflow.errors import NotFound, Unauthorized
from asyncflow.web import errors

#: `blob:` shows a picture before it is uploaded; nothing inline, nothing foreign
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

TYPES: Mapping[str, str] = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


def add_routes(app: web.Application) -> None:
    """Add the upload page to *app*."""
    app.router.add_get("/", show)
    app.router.add_get("/assets/{name}", asset)


def _assets() -> dict[str, bytes]:
    folder = resources.files("asyncflow.web").joinpath("static")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


ASSETS: Mapping[str, bytes] = _assets()


async def show(_request: web.Request) -> web.Response:
    """Show the upload page."""
    return html("index.html")


async def asset(request: web.Request) -> web.Response:
    """Send a script, a style sheet or the icon."""
    name = request.match_info["name"]
    media_type = TYPES.get(name[name.rfind(".") :])
    if name not in ASSETS or media_type is None:
        raise NotFound
    return web.Response(
        body=ASSETS[name],
        content_type=media_type,
        charset="utf-8",
        headers={hdrs.CACHE_CONTROL: "no-cache"},
    )


def html(
    name: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **texts: str,
) -> web.Response:
    """Return the page *name*; each of *texts* replaces its `{name}`, as text."""
    body = ASSETS[name].decode()
    for place, text in texts.items():
        body = body.replace(f"{{{place}}}", escape(text))
    return web.Response(
        status=status,
        text=body,
        content_type="text/html",
        headers={
            "Content-Security-Policy": CSP,
            hdrs.CACHE_CONTROL: "no-cache",
            **(headers or {}),
        },
    )


def friendly(*, prefix: str = "") -> Middleware:
    """Return the middleware that shows a person how to get in; programs are refused.

    It belongs just inside of what turns errors into answers. *prefix* stands before
    every path.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Unauthorized as error:
            if not _is_visit(request):
                raise
            return html(
                "unauthorized.html",
                status=errors.status_of(Unauthorized),
                headers=errors.headers_of(error),
                base=prefix,
                detail=error.detail[:1].upper() + error.detail[1:],
            )

    return middleware


def _is_visit(request: web.Request) -> bool:
    """Tell whether a browser asks for a page, rather than a script or a program."""
    wanted = request.headers.get(hdrs.ACCEPT, "")
    return request.method == hdrs.METH_GET and "text/html" in wanted
