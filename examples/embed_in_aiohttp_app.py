"""An aiohttp application with an upload server inside.

$ python examples/embed_in_aiohttp_app.py
$ asyncflow upload --wait --url http://127.0.0.1:8000/uploads --token anna photo.jpg
"""

import hmac
import os
from pathlib import Path

from aiohttp import web

import asyncflow

#: in a real application: its sessions, its database
PEOPLE = {"anna": "anna", "bert": "bert"}
ready: list[str] = []


async def authenticate(request: web.Request) -> asyncflow.Principal:
    """Say who is asking; everybody reaches only their own jobs."""
    shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
    for name, token in PEOPLE.items():
        if hmac.compare_digest(shown.encode(), token.encode()):
            return asyncflow.Principal(owner=name)
    raise asyncflow.Unauthorized("sign in first")


async def on_completed(job: asyncflow.OwnedJob) -> None:
    """React to a file whose results are there."""
    ready.append(f"{job.file_name} of {job.owner}\n")


async def home(_: web.Request) -> web.Response:
    """Show the application's own page."""
    page = '<!doctype html><title>Mine</title><a href="/uploads/">Upload</a>'
    return web.Response(text=page, content_type="text/html")


async def list_ready(_: web.Request) -> web.Response:
    """Tell what has become ready."""
    return web.Response(text="".join(ready))


app = web.Application()
app.router.add_get("/", home)
app.router.add_get("/ready", list_ready)
asyncflow.setup(
    app,
    prefix="/uploads",
    settings=asyncflow.Settings(data_dir=Path(os.environ.get("DATA", "data"))),
    authenticate=authenticate,
    on_completed=on_completed,
)
web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
