"""How much of the quotas is used: all that is stored, and what one tenant has.

Theory of operation
-------------------
The database keeps the sum of all, and of each tenant. What it told when it was looked
at, and what was granted since (`asyncflow.reservations`), is never less than what is
stored. A regular look reads the one sum of all and forgets what was seen of tenants:
each is looked at again when somebody asks for it. So what it costs depends on who is
there, and not on how many there ever were.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from asyncflow.db.records import Usage
from asyncflow.errors import QuotaExceeded
from asyncflow.reservations import Ledger

#: tells what the database counts for all, and for some tenants
Look = Callable[[Collection[str]], Awaitable[Usage]]

#: under this name stands what is granted to all, for which there is but one sum
_ALL: Final = ""


async def nobody_counts(_tenants: Collection[str]) -> Usage:
    """Tell of a database that counts nothing."""
    return Usage(total=0, by_tenant={})


class Quotas:
    """Bounds the sum of all, and the sum of each tenant; by *look* it asks for them."""

    def __init__(
        self,
        look: Look,
        *,
        all_bytes: int = sys.maxsize,
        tenant_bytes: int = sys.maxsize,
    ) -> None:
        self._look = look
        self._all_bytes = all_bytes
        self._tenant_bytes = tenant_bytes
        self._all = Ledger()
        self._tenants = Ledger()
        #: as last seen in the database; None: it was not looked at yet
        self._used: int | None = None
        self._used_by: dict[str, int] = {}
        #: tenants that are to be looked at next
        self._asked: set[str] = set()
        self._looked = 0.0
        self._looking = asyncio.Lock()

    # ----- what is granted

    def hold(self, tenant: str, amount: int) -> None:
        """Count *amount* more; a negative one is given back."""
        self._all.hold(_ALL, amount)
        self._tenants.hold(tenant, amount)

    def pass_on(self, tenant: str, amount: int) -> None:
        """Take note that the database counts from now on what was held."""
        self._all.pass_on(_ALL, amount)
        self._tenants.pass_on(tenant, amount)

    # ----- looks

    async def refresh(self) -> None:
        """Look at the sum of all; of tenants forget what was seen and passed on."""
        async with self._looking:
            # whoever is looked at from now on is seen with all that was passed on
            self._used_by.clear()
            self._tenants.end_look(self._tenants.begin_look())
            await self._see()

    async def know(self, count: int, tenant: str) -> None:
        """Look at the database, unless *count* bytes more fit every quota anyway.

        When it returns `check` knows enough, until something else is awaited.
        """
        asked = time.monotonic()
        while not self._is_known(tenant) or (
            self._exceeded(count, tenant) and self._looked < asked
        ):
            self._asked.add(tenant)
            async with self._looking:
                if self._asked:
                    # else somebody else has looked meanwhile, for all who asked
                    await self._see()

    async def _see(self) -> None:
        names, self._asked = self._asked, set()
        began = time.monotonic()
        whole, parts = self._all.begin_look(), self._tenants.begin_look(names)
        try:
            found = await self._look(names)
        except BaseException:
            self._asked |= names
            raise
        self._used, self._looked = found.total, began
        self._used_by.update({name: found.by_tenant.get(name, 0) for name in names})
        self._all.end_look(whole)
        self._tenants.end_look(parts)

    def _is_known(self, tenant: str) -> bool:
        if self._all_bytes < sys.maxsize and self._used is None:
            return False
        return self._tenant_bytes == sys.maxsize or tenant in self._used_by

    # ----- questions

    def check(self, count: int, tenant: str) -> None:
        """Return if *count* bytes more fit every quota, as far as is known.

        Raises:
            QuotaExceeded: they do not.
        """
        if quota := self._exceeded(count, tenant):
            raise QuotaExceeded(f"{count} bytes more would exceed the {quota}")

    def _exceeded(self, count: int, tenant: str) -> str:
        """Return the quota that *count* bytes more would exceed; '': none."""
        if (self._used or 0) + self._all.total + count > self._all_bytes:
            return f"quota of {self._all_bytes}"
        used = self._used_by.get(tenant, 0) + self._tenants.of(tenant)
        if used + count > self._tenant_bytes:
            return f"tenant's quota of {self._tenant_bytes}"
        return ""
