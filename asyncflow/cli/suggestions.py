"""What a shell offers after TAB where only a server knows the answers."""

import asyncio
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from asyncflow.cli.connection import DEFAULT_URL, server_at
from asyncflow.client import RequestFailed

# whoever pressed TAB waits: a server that takes longer offers nothing
_WITHIN_S = 2.0


def consumer_names(
    context: click.Context,
    param: click.Parameter,  # noqa: ARG001 -- click's signature
    incomplete: str,
) -> list[CompletionItem]:
    """Offer the consumers of the server that the line names; none if it is silent."""
    said = context.params
    server = server_at(said.get("url") or DEFAULT_URL, said.get("token"))
    taken = set(said.get("names") or ())

    async def ask() -> list[str]:
        async with asyncio.timeout(_WITHIN_S), server.client() as client:
            return [one.name for one in await client.consumers()]

    names: list[str] = []
    with suppress(RequestFailed, TimeoutError):
        names = asyncio.run(ask())
    return [
        CompletionItem(name)
        for name in names
        if name.startswith(incomplete) and name not in taken
    ]
