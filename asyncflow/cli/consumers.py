"""`asyncflow consumers`, `pause`, `resume`, `replay`, `forget`: by an operator."""

from datetime import UTC, datetime, timedelta

import click
import msgspec

from asyncflow.cli.connection import Server, converse, server_at, server_options
from asyncflow.cli.output import Output, output_options
from asyncflow.cli.suggestions import consumer_names
from asyncflow.cli.terminal import clean
from asyncflow.client import Consumer
from asyncflow.notation import parse_seconds

HEAD = (
    "NAME",
    "WAITING",
    "OLDEST",
    "RUNNING",
    "AGAIN",
    "DONE",
    "DEAD",
    "REFUSED",
    "LAG",
    "/MIN",
)


class Moment(click.ParamType[datetime]):
    """A moment in the past: a date, a time with a zone, or a span such as 2d."""

    name = "TIME"

    def convert(
        self,
        value: str | datetime,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        """Return the moment; what has no zone is in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            span = parse_seconds(value)
            if isinstance(span, float):
                return datetime.now(UTC) - timedelta(seconds=span)
        except (ValueError, OverflowError):
            pass
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no moment; accepted: 2026-11-01,"
                " 2026-11-01T12:00:00+01:00, or a span such as 2d or 90m",
                param,
                ctx,
            )
        return found if found.tzinfo else found.replace(tzinfo=UTC)


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer, or a tenant, that was paused, or goes on."""

    name: str
    paused: bool


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer that other nodes are not believed to have any more."""

    name: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """How many steps a replay has made."""

    consumer: str
    steps: int


@click.command()
@output_options(
    json="Print a JSON line per consumer.", quiet="Print only the consumers' names."
)
@server_options
def consumers(*, as_json: bool, quiet: bool, url: str, token: str | None) -> int:
    """Show what each consumer does, and how far behind it is."""
    server = server_at(url, token)
    found = converse(lambda: _look(server))
    if as_json or quiet:
        output = Output(as_json=as_json, quiet=quiet)
        for one in found:
            output.tell(one, "", brief=clean(one.name))
        return 0
    rows = [HEAD, *(_row(one) for one in found)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEAD))]
    for row in rows:
        first, *rest = (
            text.ljust(width) if n == 0 else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join([first, *rest]).rstrip())
    return 0


async def _look(server: Server) -> tuple[Consumer, ...]:
    async with server.client() as client:
        return await client.consumers()


def _row(one: Consumer) -> tuple[str, ...]:
    steps = one.steps.get
    name = clean(one.name)
    if one.paused:
        name += " (paused)"
    elif one.runs == "elsewhere":
        name += " (not here)"
    elif one.missing_tool:
        name += f" (no {clean(one.missing_tool)})"
    oldest = "-" if one.oldest_s is None else f"{one.oldest_s:.0f} s"
    counts = (steps("ready", 0) + steps("waiting", 0), steps("running", 0))
    return (
        name,
        str(counts[0]),
        oldest,
        str(counts[1]),
        str(steps("retrying", 0)),
        str(steps("done", 0)),
        str(steps("dead", 0)),
        str(steps("refused", 0)),
        str(one.lag),
        f"{one.per_minute:g}",
    )


_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME…", shell_complete=consumer_names
)
_tenants = click.option(
    "--tenant",
    "of_tenants",
    is_flag=True,
    help="The names are those of tenants; - is all that belongs to none.",
)
_switch_output = output_options(
    json="Print a JSON line per consumer.", quiet="Print nothing but errors."
)


@click.command()
@_names
@_tenants
@_switch_output
@server_options
def pause(
    names: tuple[str, ...],
    *,
    of_tenants: bool,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """Let consumers begin no more steps, also after a restart of the server."""
    output = Output(as_json=as_json, quiet=quiet)
    server = server_at(url, token)
    return _switch(server, names, output, on=True, of_tenants=of_tenants)


@click.command()
@_names
@_tenants
@_switch_output
@server_options
def resume(
    names: tuple[str, ...],
    *,
    of_tenants: bool,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """Let paused consumers go on."""
    output = Output(as_json=as_json, quiet=quiet)
    server = server_at(url, token)
    return _switch(server, names, output, on=False, of_tenants=of_tenants)


def _switch(
    server: Server,
    names: tuple[str, ...],
    output: Output,
    *,
    on: bool,
    of_tenants: bool,
) -> int:
    async def each() -> None:
        async with server.client() as client:
            switch = client.pause_tenant if of_tenants else client.pause
            for name in names:
                await switch(name, on=on)
                text = f"{clean(name)}  {'paused' if on else 'goes on'}"
                output.tell(Switched(name=name, paused=on), text)

    converse(each)
    return 0


@click.command()
@_names
@_switch_output
@server_options
def forget(
    names: tuple[str, ...], *, as_json: bool, quiet: bool, url: str, token: str | None
) -> int:
    """Forget which other servers have consumers: those that are gone for good.

    What waits for a consumer that nobody has is skipped; a task fails.
    """
    output = Output(as_json=as_json, quiet=quiet)
    server = server_at(url, token)

    async def each() -> None:
        async with server.client() as client:
            for name in names:
                await client.forget(name)
                output.tell(Forgotten(name=name), f"{clean(name)}  forgotten elsewhere")

    converse(each)
    return 0


@click.command()
@click.option(
    "--consumer",
    required=True,
    metavar="NAME",
    help="Who gets them.",
    shell_complete=consumer_names,
)
@click.option("--since", required=True, type=Moment(), help="From when on.")
@output_options(
    json="Print one JSON document.", quiet="Print only the number of steps."
)
@server_options
def replay(
    *,
    consumer: str,
    since: datetime,
    as_json: bool,
    quiet: bool,
    url: str,
    token: str | None,
) -> int:
    """Give a consumer old events once more, beside the runs of their jobs.

    Files and facts are renewed where it succeeds; no job changes its state.
    """
    server = server_at(url, token)

    async def whole() -> int:
        async with server.client() as client:
            return await client.replay(consumer, since)

    made = converse(whole)
    Output(as_json=as_json, quiet=quiet).document(
        Made(consumer=consumer, steps=made),
        f"{clean(consumer)}  {made} {'step' if made == 1 else 'steps'}",
        brief=str(made),
    )
    return 0
