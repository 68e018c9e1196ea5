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


def declared(route: str) -> tuple[set[str], set[str]]:
    """Return the parameters and the codes of refusals of an operation."""
    (found,) = [one for one in OPERATIONS if one.route == route]
    codes = {refusal.code for refusal in found.refusals}
    return {one.name for one in found.parameters}, codes


def test_what_a_request_may_say_is_described() -> None:
    created, _ = declared("POST /files/")
    assert {
        "Upload-Concat",
        "Upload-Defer-Length",
        "Upload-Checksum",
        "Content-Digest",
        "Idempotency-Key",
    } <= created
    assert {"Upload-Checksum", "Content-Digest"} <= declared("PATCH /files/{id}")[0]
    assert {"If-Range", "Accept-Encoding"} <= declared("GET /jobs/{id}/files/{name}")[0]
    for route in ("POST /upload", "PUT /upload/{name}"):
        assert {"pipeline", "Content-Digest"} <= declared(route)[0]
    bodies = [one.takes for one in OPERATIONS if one.route.startswith("POST /upload")]
    for takes in bodies:
        assert takes is not None
        form = takes["multipart/form-data"]
        assert isinstance(form, dict)
        assert "pipeline" in form["properties"]


def test_an_upload_in_one_request_has_no_offset_and_no_dialect() -> None:
    for route in ("POST /upload", "PUT /upload/{name}"):
        assert not declared(route)[1] & {
            "offset_mismatch",
            "unsupported_tus_version",
            "checksum_mismatch",
            "upload_not_found",
        }
