"""May this upload start? Asked before a byte of it is read.

A refusal here costs the client nothing but the request; every check that comes later
is a repetition of one of these on better knowledge.
"""

import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from asyncflow import uploads
from asyncflow.errors import (
    AsyncflowError,
    BacklogFull,
    DiskFull,
    QuotaExceeded,
    ShuttingDown,
    TypeNotAllowed,
    UploadTooLarge,
)
from asyncflow.growing import Growing
from asyncflow.store.base import Space

#: what a form may have beyond its files: names, other fields, boundaries
FORM_BYTES = 64 << 10
#: how much an upload of unknown length may bring before the disk is looked at again
ROOM_EVERY_BYTES = 8 << 20
#: for so long a look at the disk is enough for small questions
RECENT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator allows. `fill_level` is a share of the disk, 0 to 100."""

    max_bytes: int
    allowed_types: tuple[str, ...]
    backlog_limit: int
    fill_level: float
    #: bytes that may be stored, in all and for one tenant
    quota_bytes: int = sys.maxsize
    tenant_quota_bytes: int = sys.maxsize
    #: unfinished uploads of one client
    open_uploads: int = 1000


class Admission:
    """Decides on uploads that want to start.

    *space* tells the room under the store (None: the store cannot fill up), *backlog*
    how many steps wait, *usage* how many bytes each tenant has.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        space: Callable[[], Awaitable[Space]] | None,
        backlog: Callable[[], int],
        usage: Callable[[], Mapping[str, int]] = dict,
        on_refusal: Callable[[str], None] = lambda _code: None,
    ) -> None:
        self.rules = rules
        self.on_refusal = on_refusal
        self._space = space
        self._backlog = backlog
        self._usage = usage
        #: as last seen, its sum, and what has been announced by each tenant since
        self._seen: Mapping[str, int] | None = None
        self._used = 0
        self._recent: Counter[str] = Counter()
        self._growing = Growing()
        #: what the disk was like when it was looked at, and what was announced since
        self._last: Space | None = None
        self._looked = 0.0
        self._since = 0
        #: set while the server stops
        self.closed = False

    async def check(
        self, *, length: int | None, declared_type: str, tenant: str = ""
    ) -> None:
        """Return if an upload like this may start.

        Raises:
            ShuttingDown, BacklogFull, DiskFull, QuotaExceeded: not now.
            UploadTooLarge, TypeNotAllowed: never.
        """
        try:
            await self._check(length, declared_type)
            self._check_quota(length or 0, tenant)
            self._recent[tenant] += length or 0
        except AsyncflowError as refused:
            self.on_refusal(refused.code)
            raise

    async def check_form(self, length: int) -> None:
        """Return if a form of *length* bytes, its own included, may be read.

        Raises:
            ShuttingDown, DiskFull: not now.
            UploadTooLarge: no file may be as large as this.
        """
        files = max(0, length - FORM_BYTES)
        try:
            if self.closed:
                raise ShuttingDown
            if files > self.rules.max_bytes:
                raise UploadTooLarge(
                    length=length, max_bytes=self.rules.max_bytes, what="form"
                )
            await self._check_space(files)
        except AsyncflowError as refused:
            self.on_refusal(refused.code)
            raise

    async def check_room(self) -> None:
        """Return if there is room for anything.

        Raises:
            DiskFull: the disk is filled as far as it may be.
        """
        await self._check_space(0)

    # ----- uploads of unknown length

    async def grow(
        self, upload_id: str, tenant: str, at: int, *, more: int | None
    ) -> None:
        """Return if an upload that holds *at* bytes may get *more*; None: any number.

        Raises:
            DiskFull, QuotaExceeded: it has taken all that it may.
        """
        end = None if more is None else at + more
        self._growing.note(upload_id, tenant, at, end=end)
        promised = self._growing.promise(upload_id, ROOM_EVERY_BYTES)
        await self._check_growth(
            tenant, more or 0, beyond=max(0, (more or 0) - promised)
        )

    async def go_on(self, upload_id: str, tenant: str, at: int) -> None:
        """Return if an upload that has grown to *at* bytes may go on.

        Raises:
            DiskFull, QuotaExceeded: as `grow`.
        """
        if self._growing.move(upload_id, at) <= 0:
            self._growing.promise(upload_id, ROOM_EVERY_BYTES)
            await self._check_growth(tenant, 0, beyond=0)
        else:
            self._check_quota(0, tenant)

    async def _check_growth(self, tenant: str, more: int, *, beyond: int) -> None:
        try:
            self._check_quota(more, tenant)
            await self._check_space(beyond)
        except AsyncflowError as refused:
            self.on_refusal(refused.code)
            raise

    def rest(self, upload_id: str, at: int) -> None:
        """Take note that nobody fills an upload now, which holds *at* bytes."""
        self._growing.rest(upload_id, at)

    def found(self, upload_id: str, tenant: str, at: int) -> None:
        """Count an upload of unknown length that an earlier server has begun."""
        self._growing.note(upload_id, tenant, at)

    async def measure(self, tenant: str, *, length: int, at: int) -> None:
        """Return if an upload that holds *at* bytes may be *length* bytes long.

        Raises:
            DiskFull, QuotaExceeded: not now.
            UploadTooLarge: never.
        """
        try:
            if length > self.rules.max_bytes:
                raise UploadTooLarge(length=length, max_bytes=self.rules.max_bytes)
            self._check_quota(length - at, tenant)
            await self._check_space(length - at)
        except AsyncflowError as refused:
            self.on_refusal(refused.code)
            raise

    def measured(self, upload_id: str, tenant: str, length: int) -> None:
        """Take note that an upload's length is known: the database counts it now."""
        self._growing.forget(upload_id)
        self._recent[tenant] += length

    def forget(self, upload_id: str) -> None:
        """Take note that an upload has ended."""
        self._growing.forget(upload_id)

    # ----- the single conditions

    def check_backlog(self) -> None:
        """Return if there may be more work.

        Raises:
            ShuttingDown, BacklogFull: not now.
        """
        if self.closed:
            raise ShuttingDown
        waiting = self._backlog()
        if waiting >= self.rules.backlog_limit:
            raise BacklogFull(
                f"{waiting} steps are waiting, the limit is {self.rules.backlog_limit}"
            )

    async def _check(self, length: int | None, declared_type: str) -> None:
        if self.closed:
            raise ShuttingDown
        rules = self.rules
        if length is not None and length > rules.max_bytes:
            raise UploadTooLarge(length=length, max_bytes=rules.max_bytes)
        self.check_type(declared_type)
        self.check_backlog()
        await self._check_space(length or 0, roughly=True)
        self._since += length or 0

    def _check_quota(self, length: int, tenant: str) -> None:
        rules, usage = self.rules, self._usage()
        if usage is not self._seen:
            self._seen, self._used = usage, sum(usage.values())
            self._recent.clear()
        used = self._used + self._recent.total() + self._growing.held
        if used + length > rules.quota_bytes:
            raise QuotaExceeded(
                f"{length} bytes more would exceed the quota of {rules.quota_bytes}"
            )
        used = usage.get(tenant, 0) + self._recent[tenant]
        used += self._growing.held_by(tenant)
        if used + length > rules.tenant_quota_bytes:
            raise QuotaExceeded(
                f"{length} bytes more would exceed the tenant's quota of "
                f"{rules.tenant_quota_bytes}"
            )

    def check_type(self, media_type: str) -> None:
        """Return if files of *media_type* are taken.

        An unknown type passes for now: the first bytes will tell.
        """
        if media_type == "application/octet-stream":
            return
        if not uploads.is_allowed(media_type, self.rules.allowed_types):
            raise TypeNotAllowed(
                f"this server takes no {media_type}; accepted: "
                + ", ".join(self.rules.allowed_types)
            )

    async def _check_space(self, length: int, *, roughly: bool = False) -> None:
        """Return if the disk has room; *roughly*: as seen a moment ago will do."""
        if self._space is None:
            return
        now = time.monotonic()
        if roughly and self._last is not None and now - self._looked < RECENT_S:
            with suppress(DiskFull):  # look again before anybody is refused
                self._compare(self._last, length + self._since)
                return
        self._since = 0
        self._last, self._looked = await self._space(), now
        self._compare(self._last, length)

    def _compare(self, space: Space, length: int) -> None:
        used = space.total_bytes - space.free_bytes + length + self._growing.promised
        if used > space.total_bytes * self.rules.fill_level / 100:
            level = f"{self.rules.fill_level:g} %"
            raise DiskFull(
                f"{length} bytes more would fill the disk above {level}"
                if length
                else f"the disk is filled above {level} already"
            )
