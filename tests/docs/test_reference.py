"""What the program has, the reference has: no more, no less, and no different."""

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest
from aiohttp import hdrs

from asyncflow import errors, server
from asyncflow.cli.app import COMMANDS, app as root_command
from asyncflow.config import Settings, declared, load
from asyncflow.events import EVENT_TYPES
from asyncflow.jobs import REASONS, TERMINAL_EVENTS
from asyncflow.metrics import Metrics
from asyncflow.processors import identify, image, text
from asyncflow.processors.base import REGISTRY
from asyncflow.runtime import Runtime
from asyncflow.views import JobView
from asyncflow.web.auth import TokenAuth
from asyncflow.web.errors import NOT_HTTP, status_of
from tests.docs.pages import PACKAGE, ROOT, page, rows


def error_classes() -> list[type[errors.AsyncflowError]]:
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.AsyncflowError)
    ]


def test_every_setting_is_documented_as_it_is_declared() -> None:
    expected = [
        (
            f"`{one.name}`",
            f"`{one.default}`" if one.default else "unset",
            one.help,
            one.accepts,
        )
        for one in declared()
    ]
    assert rows("reference/settings.md") == expected


def test_every_setting_is_used_by_the_program() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py"))
    unused = [one.name for one in declared() if f"settings.{one.name}" not in source]
    assert unused == []


def test_the_example_env_file_holds_every_setting_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if line.startswith("#ASYNCFLOW_")]
    assert settings == [f"#{one.env}={one.default}" for one in declared()]
    helps = [line for line in lines if "; accepted: " in line]
    assert helps == [f"# {one.help}; accepted: {one.accepts}" for one in declared()]


def test_the_example_env_file_can_be_used_as_it_is(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(text.replace("\n#ASYNCFLOW", "\nASYNCFLOW"))
    elsewhere = load(env={}, cwd=tmp_path / "elsewhere")
    defaults = dataclasses.replace(elsewhere, data_dir=tmp_path / "data")
    assert load(env={}, cwd=tmp_path) == defaults


def test_every_error_is_documented_with_its_status_and_fault() -> None:
    expected = {
        (
            f"`{one.code}`",
            "—" if issubclass(one, NOT_HTTP) else str(status_of(one)),
            one.fault,
            (one.__doc__ or "").strip().splitlines()[0],
        )
        for one in error_classes()
    }
    assert {row for row in rows("reference/errors.md") if len(row) == 4} == expected


def test_every_reason_is_documented() -> None:
    found = [row for row in rows("reference/errors.md") if len(row) == 2]
    assert found == [(f"`{code}`", says) for code, says in REASONS.items()]


def test_every_event_type_is_documented() -> None:
    found = rows("reference/events.md")
    for kind, says in EVENT_TYPES.items():
        assert (f"`{kind}`", says) in found
    for kind in TERMINAL_EVENTS.values():
        assert f"`{kind}`" in page("reference/events.md")
        assert f"`{kind}`" in page("reference/http.md")


def test_every_metric_is_documented() -> None:
    expected = [
        (
            f"`{one.name}`",
            one.kind,
            ", ".join(f"`{label}`" for label in one.labels) or "—",
            one.help,
        )
        for one in Metrics().specs()
    ]
    assert rows("reference/metrics.md") == expected


def test_every_command_is_documented() -> None:
    found = [row[0].split()[1].strip("`") for row in rows("reference/cli.md")]
    assert sorted(found) == sorted(COMMANDS)


def test_every_command_can_be_loaded() -> None:
    context = root_command.make_context("asyncflow", [], resilient_parsing=True)
    for name in COMMANDS:
        assert root_command.get_command(context, name) is not None


def test_every_processor_is_documented() -> None:
    own = {
        one.name
        for one in REGISTRY.values()
        if one.run.__module__ in {identify.__name__, image.__name__, text.__name__}
    }
    found = {row[0].strip("`") for row in rows("reference/processors.md")}
    assert found == own
    for name in own:
        assert f"## {name}\n" in page("reference/processors.md")


@pytest.fixture
def routes(tmp_path: Path) -> set[str]:
    runtime = Runtime(Settings(data_dir=tmp_path / "data"))
    who = TokenAuth("for-the-routes", open_locally=True)
    found = set()
    for route in server.build_app(runtime, who).router.routes():
        if route.resource is None:
            continue
        path = route.resource.canonical
        found.add((route.method, path))
    gets = {path for method, path in found if method == hdrs.METH_GET}
    return {
        f"{method} {path}"
        for method, path in found
        # a HEAD beside a GET goes without saying; so does the slash at the end
        if not (method == hdrs.METH_HEAD and path in gets)
        and (method, path + "/") not in found
    }


def test_every_route_is_documented(routes: set[str]) -> None:
    found = {row[0].strip("`") for row in rows("reference/http.md")}
    documented = {one for one in found if one.split(" ")[0].isupper() and " /" in one}
    assert documented == routes


def test_every_member_of_a_status_is_documented() -> None:
    told = page("reference/http.md").partition("## Status")[2]
    told = told.partition("(progress)=")[0]
    named = set(re.findall(r"`(\w+)`", told))
    members = {one.encode_name for one in msgspec.structs.fields(JobView)}
    assert members <= named
