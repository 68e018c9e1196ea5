"""What the tests of embedding ask of a mounted server."""

from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient

import asyncflow

Host = TestClient[web.Request, web.Application]
TUS = {"Tus-Resumable": "1.0.0"}


async def put(host: Host, name: str, body: bytes, **headers: str) -> dict[str, Any]:
    """Upload *body* in one request; return the answer."""
    async with host.put(f"/uploads/upload/{name}", data=body, headers=headers) as said:
        assert said.status == 202, await said.text()
        answer: dict[str, Any] = await said.json()
        return answer


async def ended(host: Host, job: str, **headers: str) -> dict[str, Any]:
    """Return a job once it is over, told by the socket."""
    url = f"/uploads/ws?job={job}"
    async with host.ws_connect(url, headers=headers) as socket:
        async for message in socket:
            told: dict[str, Any] = message.json()
            if told["type"] == "error":
                raise LookupError(told["code"])
            if told.get("job", {}).get("status") in {"COMPLETED", "FAILED", "REJECTED"}:
                found: dict[str, Any] = told["job"]
                return found
    raise AssertionError("the socket closed before the job was over")


async def by_name(request: web.Request) -> asyncflow.Principal:
    """Know people by a header, as a host would by its sessions."""
    name = request.headers.get("X-User")
    if name is None:
        raise asyncflow.Unauthorized("sign in first")
    tenant = request.headers.get("X-Tenant", "")
    return asyncflow.Principal(owner=name, tenant=tenant)
