"""Uploads whose length nobody has said: what they hold, and what they may still take.

The database counts the bytes of every other upload from its creation on. These are
counted here, in memory: after a restart by what their blobs hold.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class _One:
    tenant: str
    held: int
    promised: int
    #: how far the request that fills it goes, if it has said so
    end: int | None = None


class Growing:
    """Keeps the sums. `promised` is the room on the disk that is about to be filled."""

    def __init__(self) -> None:
        self._of: dict[str, _One] = {}
        self._held: dict[str, int] = {}
        self.promised = 0

    def note(
        self, upload_id: str, tenant: str, held: int, *, end: int | None = None
    ) -> None:
        """Take note of what an upload has, and of where its bytes will *end*."""
        self._put(upload_id, _One(tenant, held, 0, end))

    def _put(self, upload_id: str, one: _One) -> None:
        self.forget(upload_id)
        self._of[upload_id] = one
        self._held[one.tenant] = self._held.get(one.tenant, 0) + one.held
        self.promised += one.promised

    def forget(self, upload_id: str) -> None:
        """Count an upload no longer: its length is known, or it has ended."""
        one = self._of.pop(upload_id, None)
        if one is None:
            return
        self.promised -= one.promised
        held = self._held.pop(one.tenant, 0) - one.held
        # uploads that hold nothing yet have no share in a sum
        if held:
            self._held[one.tenant] = held

    def move(self, upload_id: str, at: int) -> int:
        """Note that an upload holds *at* bytes now; return what it may still take."""
        one = self._of.get(upload_id)
        if one is None:
            return 0
        left = max(0, one.held + one.promised - at)
        self._put(upload_id, replace(one, held=at, promised=left))
        return left

    def promise(self, upload_id: str, most: int) -> int:
        """Promise an upload the bytes that come, at *most* so many; return how many."""
        one = self._of.get(upload_id)
        if one is None:
            return 0
        promised = most if one.end is None else min(most, one.end - one.held)
        self._put(upload_id, replace(one, promised=promised))
        return promised

    def rest(self, upload_id: str, at: int) -> None:
        """Take back what an upload was promised, if it is still counted here."""
        one = self._of.get(upload_id)
        if one is not None:
            self.note(upload_id, one.tenant, at)

    def held_by(self, tenant: str) -> int:
        """Return the bytes of a tenant's uploads."""
        return self._held.get(tenant, 0)

    @property
    def held(self) -> int:
        """The bytes of all of them."""
        return sum(self._held.values())
