"""What the commands that talk to a server have in common: where it is, how to ask."""

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from asyncflow.client import Client, Patience, RequestFailed, ServerUnreachable

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
# a person waits for the answer: 3 tries are over within a second
_HASTE = Patience(attempts=3, first_pause_s=0.1, longest_pause_s=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server's address and the token it wants, if we know one.

    A token that nobody gave, but that lies in a folder here, may be another server's.
    """

    url: str
    token: str | None
    is_guessed: bool = False

    @asynccontextmanager
    async def client(self, *, patient: bool = False) -> AsyncIterator[Client]:
        """Yield a client; a *patient* one tries for about half a minute."""
        patience = None if patient else _HASTE
        token = self.token
        if self.is_guessed and not await self._takes_token():
            # without it the server says what it wants, which may be nothing
            token = None
        async with Client(self.url, token, patience=patience) as client:
            yield client

    async def _takes_token(self) -> bool:
        async with Client(self.url, self.token, patience=_HASTE) as client:
            with suppress(ServerUnreachable):
                return await client.is_known()
        return True


def server_options(command: F) -> F:
    """Add --url and --token to *command*."""
    url = click.option(
        "--url",
        envvar="ASYNCFLOW_URL",
        default=DEFAULT_URL,
        show_default=True,
        help="The server's address; also ASYNCFLOW_URL.",
    )
    token = click.option(
        "--token",
        help="The server's token; better ASYNCFLOW_TOKEN, which no process list shows."
        "  [default for a server on this machine: the file <data-dir>/token]",
    )
    return url(token(command))


def server_at(url: str, token: str | None, *, data_dir: Path | None = None) -> Server:
    """Return the server at *url*, with a token from wherever there is one.

    *data_dir* is the folder of a server here, if we know better than the settings.
    """
    given = token or os.environ.get("ASYNCFLOW_TOKEN")
    if given:
        return Server(url=url, token=given)
    # what lies in a folder here is the secret of a server here, and of no other
    found = _local_token(data_dir) if _is_here(url) else None
    return Server(url=url, token=found, is_guessed=found is not None)


def _is_here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _local_token(data_dir: Path | None) -> str | None:
    folder = Path(os.environ.get("ASYNCFLOW_DATA_DIR") or "data")
    if any(Path(name).exists() for name in (".env", "asyncflow.toml")):
        # imported here because reading settings costs as much as the rest of a command
        from asyncflow.config import load  # noqa: PLC0415
        from asyncflow.errors import BadSettings  # noqa: PLC0415

        with suppress(BadSettings):
            settings = load({}, env=os.environ, cwd=Path.cwd())
            if settings.token is not None:
                return settings.token.get_secret_value()
            folder = settings.data_dir
    try:
        text = ((data_dir or folder) / "token").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return text.strip() or None


def converse(talk: Callable[[], Awaitable[T]]) -> T:
    """Run *talk* to its end; say in one sentence what went wrong, if something did."""

    async def whole() -> T:
        return await talk()

    try:
        return asyncio.run(whole())
    except RequestFailed as error:
        raise click.ClickException(in_words(error)) from None
    except ExceptionGroup as group:
        first = _first_of(group)
        if isinstance(first, RequestFailed):
            raise click.ClickException(in_words(first)) from None
        raise first from None


def _first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return one of several failures: what happens together says the same."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def in_words(error: BaseException) -> str:
    """Say what went wrong, and what helps where that is known."""
    if isinstance(error, ServerUnreachable):
        hint = "is it running? start it with `asyncflow serve`, or give its --url"
        return f"{error}; {hint}"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    code = getattr(error, "code", None)
    if code == "unauthorized":
        return f"{error}; give it with ASYNCFLOW_TOKEN or --token"
    return str(error)
