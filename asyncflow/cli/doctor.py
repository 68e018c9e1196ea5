"""`asyncflow doctor`: is everything there, and what to do if not."""

import asyncio
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from asyncflow.cli.backup import data_dir_option, verify as verify_files
from asyncflow.cli.connection import Server, server_at, server_options
from asyncflow.cli.findings import Finding, ok, stop, warn
from asyncflow.cli.machine import machine
from asyncflow.cli.terminal import clean, columns
from asyncflow.cli.toolbox import languages, tools
from asyncflow.client import RequestFailed, ServerRefused, ServerUnreachable
from asyncflow.config import load
from asyncflow.errors import BadSettings

_MARKS = {"ok": "ok", "warn": "warn", "missing": "missing", "stop": "STOP"}
_COLOURS = {"ok": "green", "warn": "yellow", "missing": "cyan", "stop": "red"}
_NAME_WIDTH, _MARK_WIDTH = 12, 8
_NARROWEST = 16


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--verify", is_flag=True, help="Read every stored file, too.")
@data_dir_option
@server_options
def doctor(
    *, as_json: bool, verify: bool, data_dir: Path | None, url: str, token: str | None
) -> int:
    """Check this machine and say what to fix.

    Ends with 1 if something would keep the server from starting, or if `--verify`
    finds stored files that are missing or damaged.
    """
    findings: list[Finding] = []
    server = server_at(url, token, data_dir=data_dir)
    for finding in _findings(server, data_dir, verify=verify):
        findings.append(finding)
        if not as_json:
            click.echo(_line(finding))
    if as_json:
        document = msgspec.json.encode({"checks": findings})
        click.echo(msgspec.json.format(document, indent=2).decode())
    stops = sum(finding.level == "stop" for finding in findings)
    if stops and not as_json:
        click.echo(f"\n{stops} of these must be mended.", err=True)
    return 1 if stops else 0


def _findings(server: Server, named: Path | None, *, verify: bool) -> Iterator[Finding]:
    yield from tools()
    data_dir, fill_level = named or Path.cwd() / "data", 90
    try:
        settings = load({}, env=os.environ, cwd=Path.cwd())
    except BadSettings as error:
        for problem in error.detail.splitlines():
            yield stop("settings", problem, "see `asyncflow settings`")
    else:
        data_dir, fill_level = named or settings.data_dir, settings.fill_level
        yield ok("settings", "all of them are fine")
        yield languages(settings.text_languages)
    yield from machine(data_dir, fill_level=fill_level)
    if verify:
        yield from verify_files(data_dir)
    yield asyncio.run(_server(server))


async def _server(server: Server) -> Finding:
    try:
        async with server.client() as client:
            await client.reach()
            if await client.is_ready():
                return ok("server", f"{server.url} is up and ready")
    except ServerUnreachable as error:
        # nobody asked for a running server, so this is no reason to fail
        hint = "start it with `asyncflow serve`, or give its --url"
        return warn("server", f"{server.url}: {error.reason}", hint)
    except ServerRefused as error:
        return warn("server", f"{server.url} refuses: {error}", "is it asyncflow?")
    except RequestFailed as error:
        return warn("server", str(error), "give its --url")
    return warn("server", f"{server.url} is up, but not ready", "see its /readyz")


def _line(finding: Finding) -> str:
    mark = click.style(f"{_MARKS[finding.level]:{_MARK_WIDTH}}", _colour(finding))
    start = f"{finding.name:{_NAME_WIDTH}}"
    text = clean(finding.text, keep_lines=False)
    lines = _wrapped(text) + [f"→ {line}" for line in _wrapped(finding.hint)[:1]]
    lines += [f"  {line}" for line in _wrapped(finding.hint)[1:]]
    rest = [" " * (_NAME_WIDTH + _MARK_WIDTH) + line for line in lines[1:]]
    return "\n".join([f"{start}{mark}{lines[0]}", *rest])


def _wrapped(text: str) -> list[str]:
    if not sys.stdout.isatty():
        return [text] if text else []
    width = max(_NARROWEST, columns() - _NAME_WIDTH - _MARK_WIDTH - 2)
    return textwrap.wrap(text, width)


def _colour(finding: Finding) -> str | None:
    # click takes colours away in a pipe, but does not know about NO_COLOR
    return None if os.environ.get("NO_COLOR") else _COLOURS[finding.level]
