"""The page at `/` and its assets: our own scripts and styles, nobody else's."""

from collections.abc import Mapping
from importlib import resources
from typing import Final

from aiohttp import hdrs, web

from asyncflow.errors import NotFound

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
    """Add the page to *app*."""
    app.router.add_get("/", show)
    app.router.add_get("/assets/{name}", asset)


def _assets() -> dict[str, bytes]:
    folder = resources.files("asyncflow.web").joinpath("static")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


ASSETS: Mapping[str, bytes] = _assets()


async def show(_request: web.Request) -> web.Response:
    """Show the page."""
    return web.Response(
        body=ASSETS["index.html"],
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": CSP, hdrs.CACHE_CONTROL: "no-cache"},
    )


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
