"""Whose job is it? Somebody else's is answered like one that never existed.

Rules
-----
- Each route with `{id}` in its address names a job (or an upload, which has the id of
  its job): one middleware looks before any of them runs, so none can forget to.
- Unknown, foreign and malformed ids get the same answer, whatever else is wrong with
  the request: no answer says that a job of somebody else exists.
- The scope `admin` reaches everything.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncflow import uploads
from asyncflow.db.records import Owner
from asyncflow.errors import AsyncflowError, JobNotFound, UploadNotFound
from asyncflow.web.auth import ADMIN, Principal, principal_key

#: returns whose a job is; raises JobNotFound
OwnerOf = Callable[[str], Awaitable[Owner]]

UPLOADS: Final = "/files/{id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which jobs whoever sent a request can reach."""

    owner_of: OwnerOf
    principal: Principal

    async def check(self, job: str) -> None:
        """Return if *job* can be reached. Raise JobNotFound."""
        if ADMIN in self.principal.scopes:
            return
        if not uploads.is_id(job):
            raise JobNotFound
        mine = Owner(owner=self.principal.owner, tenant=self.principal.tenant)
        if await self.owner_of(job) != mine:
            raise JobNotFound


#: for routes that take ids elsewhere than in their address; absent: there is one owner
reach_key: Final = web.RequestKey("reach", Reach)


def ownership(owner_of: OwnerOf, *, prefix: str = "") -> Middleware:
    """Return the middleware that refuses what is somebody else's."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        job = request.match_info.get("id")
        principal = request.get(principal_key)
        if principal is None:
            return await handler(request)
        reach = Reach(owner_of=owner_of, principal=principal)
        request[reach_key] = reach
        if job is not None:
            try:
                await reach.check(job)
            except JobNotFound:
                raise _unknown(request, prefix) from None
        return await handler(request)

    return middleware


def _unknown(request: web.Request, prefix: str) -> AsyncflowError:
    resource = request.match_info.route.resource
    is_upload = resource is not None and resource.canonical == prefix + UPLOADS
    return UploadNotFound() if is_upload else JobNotFound()
