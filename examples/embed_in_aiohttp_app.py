"""An aiohttp application with an upload server inside.

$ python examples/embed_in_aiohttp_app.py
$ asyncflow upload --wait --url http://127.0.0.1:8000/uploads --token anna photo.jpg

People sign in at http://127.0.0.1:8000/ as anna or bert, with their name as password.
"""

import hmac
import os
import secrets
from pathlib import Path

from aiohttp import web

import asyncflow

#: in a real application: its sessions, its database
PEOPLE = {"anna": "anna", "bert": "bert"}
SESSIONS: dict[str, str] = {}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mine</title>
<h1>Mine</h1>
<form method="post" action="/sign-in">
<p><label>Name <input name="name" autocomplete="username" required></label>
<p><label>Password <input name="password" type="password" required></label>
<p><button>Sign in and upload</button>
</form>
"""
ready: list[str] = []


async def authenticate(request: web.Request) -> asyncflow.Principal:
    """Say who is asking; everybody reaches only their own jobs."""
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    name = who_has(bearer) or SESSIONS.get(request.cookies.get("session", ""))
    if name is not None:
        return asyncflow.Principal(owner=name)
    if "text/html" in request.headers.get("Accept", ""):
        # a person who opens a page is shown where to sign in
        raise web.HTTPSeeOther("/")
    raise asyncflow.Unauthorized("sign in first")


def who_has(secret: str) -> str | None:
    """Return whose secret it is; None: nobody's."""
    for name, kept in PEOPLE.items():
        if hmac.compare_digest(secret.encode(), kept.encode()):
            return name
    return None


async def on_completed(job: asyncflow.OwnedJob) -> None:
    """React to a file whose results are there."""
    ready.append(f"{job.file_name} of {job.owner}\n")


async def home(_: web.Request) -> web.Response:
    """Show the application's own page."""
    return web.Response(text=PAGE, content_type="text/html")


async def sign_in(request: web.Request) -> web.Response:
    """Remember who it is, and go on to the uploads."""
    said = await request.post()
    name = who_has(str(said.get("password", "")))
    if name is None or name != said.get("name"):
        raise web.HTTPSeeOther("/")
    session = secrets.token_urlsafe(32)
    SESSIONS[session] = name
    answer = web.HTTPSeeOther("/uploads/")
    answer.set_cookie("session", session, httponly=True, samesite="Lax")
    raise answer


async def list_ready(_: web.Request) -> web.Response:
    """Tell what has become ready."""
    return web.Response(text="".join(ready))


app = web.Application()
app.router.add_get("/", home)
app.router.add_post("/sign-in", sign_in)
app.router.add_get("/ready", list_ready)
asyncflow.setup(
    app,
    prefix="/uploads",
    settings=asyncflow.Settings(data_dir=Path(os.environ.get("DATA", "data"))),
    authenticate=authenticate,
    on_completed=on_completed,
)
web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
