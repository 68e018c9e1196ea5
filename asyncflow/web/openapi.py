"""The HTTP surface as OpenAPI 3.1, made from the types we really send.

`asyncflow.web.operations` declares each operation once; this module makes the document
of it, serves that at `/openapi.json`, and a page to read it at `/docs`.

Rules
-----
- Answers are described by the classes that are encoded into them.
- A refusal is declared by its error class; its status comes from the table in `errors`.
- What any request can meet, such as a wrong Host, is declared once, for all.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from asyncflow import __version__, errors
from asyncflow.errors import AsyncflowError
from asyncflow.views import View
from asyncflow.web.errors import PROBLEM, status_of
from asyncflow.web.page import html

JSON: Final = "application/json"
STREAM: Final = "text/event-stream"
REF: Final = "#/components/schemas/{name}"
BYTES: Final[Mapping[str, object]] = {"type": "string", "format": "binary"}

#: what every request can meet, whatever it asks for
ALWAYS: Final[tuple[type[AsyncflowError], ...]] = (
    errors.MalformedRequest,
    errors.Unauthorized,
    errors.ForeignOrigin,
    errors.MisdirectedHost,
    errors.HeadTooLarge,
    errors.SlowHead,
    errors.TooManyConnections,
)


class Problem(View, frozen=True, kw_only=True):
    """Why a request was refused (RFC 9457); some codes bring further members."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value in the path, the query or a header; *shape* is its JSON Schema."""

    name: str
    place: str
    says: str
    shape: Mapping[str, object]
    is_needed: bool = False

    def shown(self) -> dict[str, object]:
        """Return the parameter object."""
        return {
            "name": self.name,
            "in": self.place,
            "description": self.says,
            "required": self.is_needed or self.place == "path",
            "schema": dict(self.shape),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success: JSON of one of *bodies*, or bytes of *media_type*, or only headers."""

    status: int
    says: str
    bodies: tuple[type[View], ...] = ()
    media_type: str = ""
    headers: tuple[str, ...] = ()

    def shown(self) -> dict[str, object]:
        """Return the response object."""
        found: dict[str, object] = {"description": self.says}
        if self.bodies:
            shapes: list[object] = [
                {"$ref": REF.format(name=one.__name__)} for one in self.bodies
            ]
            schema = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
            found["content"] = {JSON: {"schema": schema}}
        elif self.media_type:
            found["content"] = {self.media_type: _bare(self.media_type)}
        if self.headers:
            text = {"schema": {"type": "string"}}
            found["headers"] = dict.fromkeys(self.headers, text)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method does on one path."""

    route: str
    tag: str
    summary: str
    answers: tuple[Answer, ...]
    refusals: tuple[type[AsyncflowError], ...] = ()
    parameters: tuple[Parameter, ...] = ()
    #: media type -> JSON Schema, or type, of the request's body
    takes: Mapping[str, Mapping[str, object] | type[msgspec.Struct]] | None = None
    needs_admin: bool = False

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.route.split()[0]

    @property
    def path(self) -> str:
        """The pattern of the path."""
        return self.route.split()[1]

    def shown(self) -> dict[str, object]:
        """Return the operation object."""
        found: dict[str, object] = {
            "operationId": _identifier(self.method, self.path),
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": [one.shown() for one in self.parameters],
            "responses": self._responses(),
            "security": [{"token": []}] if self.needs_admin else [{}, {"token": []}],
        }
        if self.takes is not None:
            kinds = {kind: {"schema": _shape(s)} for kind, s in self.takes.items()}
            found["requestBody"] = {"content": kinds, "required": True}
        return found

    def _responses(self) -> dict[str, object]:
        said: dict[str, object] = {}
        said |= {str(one.status): one.shown() for one in self.answers}
        reasons: dict[int, list[str]] = defaultdict(list)
        every: tuple[type[AsyncflowError], ...] = (*self.refusals, *ALWAYS)
        for refusal in every:
            if refusal.code not in reasons[status_of(refusal)]:
                reasons[status_of(refusal)].append(refusal.code)
        schema = {"$ref": REF.format(name=Problem.__name__)}
        for status, codes in sorted(reasons.items()):
            if str(status) in said:
                continue
            said[str(status)] = {
                "description": f"{_phrase(status)}: {', '.join(codes)}",
                "content": {PROBLEM: {"schema": schema}},
            }
        return said


def _shape(of: Mapping[str, object] | type[msgspec.Struct]) -> dict[str, object]:
    if isinstance(of, type):
        return {"$ref": REF.format(name=of.__name__)}
    return dict(of)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def _identifier(method: str, path: str) -> str:
    words = path.replace("{", "by-").replace("}", "").replace(".", "-").split("/")
    return "-".join([method.lower(), *filter(None, words)])


def document(operations: Sequence[Operation], *, prefix: str = "") -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of *operations*, all below *prefix*."""
    types: set[type[msgspec.Struct]] = {
        body for one in operations for said in one.answers for body in said.bodies
    }
    for one in operations:
        types |= {kind for kind in (one.takes or {}).values() if isinstance(kind, type)}
    types.add(Problem)
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _refs, components = msgspec.json.schema_components(
        ordered, schema_hook=_anything, ref_template=REF
    )
    paths: dict[str, dict[str, object]] = defaultdict(dict)
    for one in operations:
        paths[one.path][one.method.lower()] = one.shown()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "asyncflow",
            "version": __version__,
            "description": "Resumable uploads, processed in the background.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": prefix or "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _bare(media_type: str) -> dict[str, object]:
    if media_type == STREAM:
        return {}  # it has no end that a schema could describe
    return {"schema": {"type": "object"} if media_type == JSON else dict(BYTES)}


def _anything(kind: type) -> dict[str, object]:
    """Describe what a processor may say: any JSON."""
    if kind is object:
        return {"description": "any JSON"}
    raise NotImplementedError


def add_description(
    app: web.Application, operations: Sequence[Operation], *, prefix: str = ""
) -> None:
    """Add `/openapi.json` and `/docs` to *app*."""
    body = msgspec.json.encode(document(operations, prefix=prefix))

    async def describe(_: web.Request) -> web.Response:
        headers = {hdrs.CACHE_CONTROL: "no-cache"}
        return web.Response(body=body, content_type=JSON, headers=headers)

    async def read(_: web.Request) -> web.Response:
        return html("docs.html")

    app.router.add_get("/openapi.json", describe)
    app.router.add_get("/docs", read)
