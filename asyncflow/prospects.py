"""What files will take of which only chunks have come, as far as can be foreseen.

Rules
-----
- The first chunk of a file asks for room for all of it, and holds that: what begins
  beside it has to make do with the rest, and two files that begin together do not meet
  a full disk half-way.
- First chunks that come at once are chunks of one file: it asks, and holds, once.
- A chunk takes what it needs out of what its file holds, and asks only for what goes
  beyond; what it does not use goes back there.
- What was refused holds nothing, and neither does a file that is over, or that no chunk
  has begun when the last request for it ends.
- All this is a guess, from the size of a chunk: nobody is refused for the part of it
  that may never come. A restart forgets it, and the next chunk foresees anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from asyncflow.errors import DiskFull, QuotaExceeded
from asyncflow.reservations import Reservation

#: holds so many bytes more, of the quota and of the disk
Hold = Callable[[Reservation, int], Awaitable[None]]


class Prospect:
    """What one file holds; *users* requests are about it."""

    def __init__(self, held: Reservation) -> None:
        self.held = held
        self.users = 0
        #: the upload that it belongs to, and whether that has begun
        self.upload = ""
        self.is_bound = False
        #: how large the file may become, as far as that was asked for
        self.most = 0
        self.asking = asyncio.Lock()


class Prospects:
    """Foresees files: *new* begins a reservation of a tenant, *hold* makes it more."""

    def __init__(self, new: Callable[[str], Reservation], hold: Hold) -> None:
        self._new = new
        self._hold = hold
        #: by the name of their upload, which may not be there yet
        self._of: dict[str, Prospect] = {}

    async def enter(
        self, upload_id: str | None, tenant: str, *, least: int, most: int
    ) -> Prospect:
        """Hold *most* bytes for a file if there is room, and *least* in any case.

        None: nobody knows yet what it will be called. Whoever enters must `leave`.

        Raises:
            DiskFull, QuotaExceeded: there is no room for *least*.
        """
        one = self._of.get(upload_id or "")
        if one is None:
            one = Prospect(self._new(tenant))
            if upload_id is not None:
                one.upload = upload_id
                self._of[upload_id] = one
        elif one.held.tenant != tenant:
            # whose file it is hears nothing of who tries its id
            one = Prospect(self._new(tenant))
        one.users += 1
        try:
            async with one.asking:
                await self._ask(one, least, most)
        except BaseException:
            self.leave(one)
            raise
        return one

    async def _ask(self, one: Prospect, least: int, most: int) -> None:
        if most <= one.most:
            return
        with suppress(DiskFull, QuotaExceeded):
            await self._hold(one.held, most - one.most)
            one.most = most
            return
        if least > one.most:
            await self._hold(one.held, least - one.most)
            one.most = least

    def bind(self, one: Prospect, upload_id: str) -> bool:
        """Let a file that has begun hold this until it is over; tell whether it is new.

        Another may hold already what was foreseen of it.
        """
        if one.is_bound or self._of.setdefault(upload_id, one) is not one:
            return False
        one.upload, one.is_bound = upload_id, True
        return True

    def leave(self, one: Prospect) -> None:
        """Take note that a request is over; with the last one goes what has no file."""
        one.users -= 1
        if not one.users and not one.is_bound:
            one.held.release()
            if self._of.get(one.upload) is one:
                del self._of[one.upload]

    def end(self, upload_id: str) -> None:
        """Take note that a file is over."""
        if (one := self._of.pop(upload_id, None)) is not None:
            one.held.release()

    def sums(self, tenant: str) -> tuple[int, int]:
        """Return how much is held of one tenant's quota, and of the disk in all."""
        held = [one.held for one in self._of.values()]
        mine = sum(one.bytes for one in held if one.tenant == tenant)
        return mine, sum(one.room for one in held)
