"""The page at `/`: choose files and send them, without any script."""

from importlib import resources
from typing import Final

from aiohttp import hdrs, web

CSP: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def add_routes(app: web.Application) -> None:
    """Add the page to *app*."""
    app.router.add_get("/", show)
    app.router.add_get("/style.css", style)


def _file(name: str) -> bytes:
    return resources.files("asyncflow.web").joinpath("static", name).read_bytes()


async def show(_request: web.Request) -> web.Response:
    """Show the page."""
    headers = {"Content-Security-Policy": CSP, hdrs.CACHE_CONTROL: "no-cache"}
    return web.Response(
        body=_file("index.html"),
        content_type="text/html",
        charset="utf-8",
        headers=headers,
    )


async def style(_request: web.Request) -> web.Response:
    """Send the page's style sheet."""
    headers = {hdrs.CACHE_CONTROL: "no-cache"}
    return web.Response(
        body=_file("style.css"),
        content_type="text/css",
        charset="utf-8",
        headers=headers,
    )
