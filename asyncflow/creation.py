"""How uploads begin: a row, then a blob, and what they may take is held meanwhile.

Rules
-----
- The row comes first: a blob without one would never be found again.
- What an upload may take is held from before its row exists until database and disk
  count it.
- A request that is repeated under its Idempotency-Key waits for the first, and gets
  what that one created; so does another request for the same chosen id.
- An upload that could not get its blob ends again, unless its client has chosen its id:
  then the client comes back to it, and others may use it by now.
"""

from msgspec.structs import replace

from asyncflow.admission import Admission
from asyncflow.db.base import Database
from asyncflow.db.records import NewUpload, UploadRow
from asyncflow.endings import Endings
from asyncflow.engine import Engine
from asyncflow.errors import AsyncflowError, BlobExists, ClientError
from asyncflow.lookup import Lookup, is_whole
from asyncflow.offsets import Offsets
from asyncflow.store.base import Store
from asyncflow.turns import Announced, Repeats, Upload


class Creation:
    """Creates uploads."""

    def __init__(
        self,
        *,
        db: Database,
        engine: Engine,
        store: Store,
        admission: Admission,
        offsets: Offsets,
        endings: Endings,
        lookup: Lookup,
    ) -> None:
        self._db = db
        self._engine = engine
        self._store = store
        self._admission = admission
        self._offsets = offsets
        self._endings = endings
        self._lookup = lookup
        self._repeats = Repeats()

    async def create(self, said: Announced) -> Upload:
        """Create an empty upload, bytes reserved; a known length of 0 completes it.

        One that the same Idempotency-Key has created before is returned as it is now.

        Raises:
            ClientError, ServerBusy: as `Admission.admitted` says.
            KeyReused: the Idempotency-Key belongs to another request.
            TooManyUploads: the client should finish some first.
        """
        if said.once is None:
            return await self._create(said)
        # a repeat waits for what it repeats, and is looked for before it can be refused
        async with self._repeats.turn(said.owner, said.tenant, said.once):
            made = await self._db.created_before(said.owner, said.tenant, said.once)
            if made is not None:
                return replace(await self._lookup.find(made), is_known=True)
            return await self._create(said)

    async def knows(self, owner: str, tenant: str, key: str) -> bool:
        """Tell whether a request with this Idempotency-Key has created, or does so."""
        if self._repeats.runs(owner, tenant, key):
            return True
        return await self._db.has_created(owner, tenant, key)

    async def _create(self, said: Announced) -> Upload:
        async with self._admission.admitted(
            length=said.length,
            counted=said.counted,
            shared=said.shared,
            declared_type=said.declared_type,
            tenant=said.tenant,
            client=said.client,
            lane=said.lane,
        ) as held:
            clock = self._engine.clock
            new = said.row(
                said.id or clock.new_id(),
                now=clock.now(),
                expiry_ms=self._lookup.expiry_ms,
                client_limit=self._admission.rules.open_uploads,
            )
            if new.length is None and new.parts is None:
                self._admission.found(new.id, new.tenant, 0, said.within)
            # The row comes first: a blob without one would never be found again.
            made = await self._create_row(new)
            if made != new.id:
                return replace(await self._lookup.find(made), is_known=True)
            row = await self._create_blob(new)
            held.counted()
            held.stored()
        if row is None:
            # Another request for the same upload was here first: it has the turn.
            return Upload.of(await self._lookup.open(made), 0, is_known=True)
        if is_whole(row, 0):
            row = await self._endings.complete(row, 0)
        return Upload.of(row, 0)

    async def _create_row(self, new: NewUpload) -> str:
        """Store a new upload, and remember it for its first request; return its id."""
        if not (new.chosen or new.is_part or new.parts is not None):
            self._lookup.remember(new.as_stored())
        made = ""
        try:
            made = await self._engine.create_upload(new)
        finally:
            if made != new.id:
                self._lookup.forget(new.id)
                self._admission.forget(new.id)
        return made

    async def _create_blob(self, new: NewUpload) -> UploadRow | None:
        """Create the blob of a new row; return the row, None: the blob is there."""
        length = None if new.parts is not None else new.length
        try:
            await self._store.create(new.key, length=length)
        except BlobExists:
            return None
        except AsyncflowError as error:
            # who has chosen its id comes back to it, and others may use it by now
            if not new.chosen:
                await self._endings.give_up(new.id, error.code, error.detail)
            raise
        self._offsets.note(new.key, 0)
        if not new.chosen:
            return new.as_stored()
        try:
            return await self._lookup.open(new.id)
        except ClientError:
            # ended long ago, or by who knows the id as well: keep no bytes
            await self._store.delete(new.key)
            raise
