"""The description holds what the server has: no route more, no route less."""

import re
from pathlib import Path

import msgspec
import pytest
from aiohttp import hdrs

from asyncflow import server
from asyncflow.config import Settings
from asyncflow.runtime import Runtime
from asyncflow.web import openapi
from asyncflow.web.auth import TokenAuth
from asyncflow.web.errors import document as problem_document
from asyncflow.web.operations import OPERATIONS
from asyncflow.web.page import ASSETS, CSP


@pytest.fixture
def routes(tmp_path: Path) -> set[str]:
    runtime = Runtime(Settings(data_dir=tmp_path / "data"))
    app = server.build_app(runtime, TokenAuth("for-the-routes", open_locally=True))
    found = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None
    }
    # a HEAD beside a GET goes without saying; so does a path without its last slash
    declared = {one.route for one in OPERATIONS}
    return {
        one
        for one in found
        if f"{one}/" not in found
        and not (
            one.startswith(hdrs.METH_HEAD)
            and one.replace("HEAD", "GET", 1) in found
            and one not in declared
        )
    }


def test_every_route_is_declared_and_every_declaration_is_a_route(
    routes: set[str],
) -> None:
    assert {one.route for one in OPERATIONS} == routes


def test_no_operation_is_declared_twice() -> None:
    names = [one.route for one in OPERATIONS]
    assert sorted(set(names)) == sorted(names)
    paths = openapi.document(OPERATIONS)["paths"].values()
    ids = [told["operationId"] for methods in paths for told in methods.values()]
    assert sorted(set(ids)) == sorted(ids)


def test_every_place_in_a_path_is_a_parameter() -> None:
    for one in OPERATIONS:
        named = {p.name for p in one.parameters if p.place == "path"}
        assert named == set(re.findall(r"{(\w+)}", one.path)), one.route


def test_every_reference_leads_somewhere() -> None:
    made = openapi.document(OPERATIONS)
    text = msgspec.json.encode(made).decode()
    names = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert names <= made["components"]["schemas"].keys()
    assert {"JobView", "Problem", "UploadAnswer"} <= names


def test_a_real_problem_is_the_declared_one() -> None:
    body = problem_document(status=404, code="x", detail="y", request_id="z")
    assert msgspec.json.decode(body, type=openapi.Problem).code == "x"


def test_a_mounted_server_is_described_below_its_prefix() -> None:
    made = openapi.document(OPERATIONS, prefix="/uploads")
    assert made["servers"] == [{"url": "/uploads"}]
    assert "/status/{id}" in made["paths"]


def test_the_page_for_people_keeps_the_policy() -> None:
    page = ASSETS["docs.html"].decode()
    assert "'unsafe" not in CSP
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page)
    script = ASSETS["docs.js"].decode()
    assert "innerHTML" not in script
    assert not re.search(r"https?://", page + script)
