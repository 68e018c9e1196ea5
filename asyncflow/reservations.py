"""What uploads may take and nobody else counts yet: bytes of a quota, room on a disk.

Theory of operation
-------------------
The database counts the bytes of its rows, the disk those that are written or set aside.
Between the question whether there is room and the moment from which they count lies an
await, and others ask meanwhile. So what is granted is *held* here in the same step as
the question, and is *passed on* once somebody else counts it. Even then it counts here
until they were looked at again, for the last look may be older; whatever fails gives
back what it holds.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from asyncflow.errors import UploadGone


class Sums(Protocol):
    """Sums of what is granted, by name."""

    def hold(self, name: str, amount: int, /) -> None:
        """Count *amount* more; a negative one is given back."""
        ...

    def pass_on(self, name: str, amount: int, /) -> None:
        """Take note that what was held is counted elsewhere from now on."""
        ...


class Ledger:
    """Sums of what is granted, by name, that the last look elsewhere did not show."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._passed: dict[str, int] = {}
        #: of all names
        self.total = 0

    def hold(self, name: str, amount: int) -> None:
        """Count *amount* more; a negative one is given back."""
        self.total += amount
        _add(self._held, name, amount)

    def pass_on(self, name: str, amount: int) -> None:
        """Take note that what was held is counted elsewhere from now on."""
        _add(self._held, name, -amount)
        _add(self._passed, name, amount)

    def of(self, name: str) -> int:
        """Return the sum of one name."""
        return self._held.get(name, 0) + self._passed.get(name, 0)

    def begin_look(self, names: Collection[str] | None = None) -> Mapping[str, int]:
        """Return what a look elsewhere that begins now will show, of *names* or all."""
        if names is None:
            return dict(self._passed)
        return {name: self._passed[name] for name in names if name in self._passed}

    def end_look(self, shown: Mapping[str, int]) -> None:
        """Count no longer what a look has shown; looks never overlap."""
        for name, amount in shown.items():
            self.total -= amount
            _add(self._passed, name, -amount)


def _add(sums: dict[str, int], name: str, amount: int) -> None:
    total = sums.get(name, 0) + amount
    if total:
        sums[name] = total
    else:
        # whoever holds nothing has no share in the memory either
        sums.pop(name, None)


class Reservation:
    """What one upload holds; all of it can be given back at any time.

    Then it is over: who has waited meanwhile, to hold more, gets nothing.
    *source*: what it holds is taken out of that, as far as it lasts, and goes back.
    """

    def __init__(
        self,
        quota: Sums,
        room: Sums,
        tenant: str,
        source: "Reservation | None" = None,
    ) -> None:
        self._quota = quota
        self._room = room
        self._source = source
        #: what it holds out of its source: of the quota, and of the disk
        self._lent, self._lent_room = 0, 0
        self.tenant = tenant
        #: of the quota, and of the disk
        self.bytes = 0
        self.room = 0
        #: how much of it is written, where that is followed
        self.at = 0
        #: nobody has said how much comes
        self.is_endless = False
        self.is_over = False

    def hold(self, count: int, room: int) -> None:
        """Hold so much more of each; what is negative is given back.

        Raises:
            UploadGone: everything was given back, and nobody would do so again.
        """
        if self.is_over:
            raise UploadGone
        self._add(count, room)

    def beyond(self, count: int, room: int) -> tuple[int, int]:
        """Return how much of so much more its source does not have."""
        if self._source is None:
            return count, room
        return max(0, count - self._source.bytes), max(0, room - self._source.room)

    def portion(self, room: int) -> int:
        """Return what of *room* its source has; all of it if that has nothing."""
        there = 0 if self._source is None else self._source.room
        return min(room, there) if there else room

    def _add(self, count: int, room: int) -> None:
        if self._source is not None:
            self._borrow(self._source, count, room)
        self.bytes += count
        self.room += room
        self._quota.hold(self.tenant, count)
        self._room.hold("", room)

    def _borrow(self, source: "Reservation", count: int, room: int) -> None:
        """Move so much between here and the source; a negative amount goes back."""
        lent = max(min(count, source.bytes), -self._lent)
        lent_room = max(min(room, source.room), -self._lent_room)
        self._lent += lent
        self._lent_room += lent_room
        if not source.is_over:
            source.hold(-lent, -lent_room)

    def counted(self) -> None:
        """Take note that the database counts the bytes."""
        self._quota.pass_on(self.tenant, self.bytes)
        self.bytes = self._lent = 0

    def stored(self, count: int | None = None) -> None:
        """Take note that the disk shows *count* bytes more; None: all."""
        count = self.room if count is None else min(count, self.room)
        self.room -= count
        self._lent_room = min(self._lent_room, self.room)
        self._room.pass_on("", count)

    def rest(self, at: int) -> None:
        """Give back all but the *at* bytes that are there."""
        self.at, self.is_endless = at, False
        if not self.is_over:
            self._add(at - self.bytes, -self.room)

    def settle(self, count: int) -> None:
        """Take note that the database counts *count* bytes; all else goes back."""
        self._add(count - self.bytes, -self.room)
        self.counted()
        self.is_over = True

    def release(self) -> None:
        """Give back everything, for good."""
        self.is_over = True
        self._add(-self.bytes, -self.room)
