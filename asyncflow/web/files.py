"""Which files of a job may be downloaded, and what they are called."""

import hashlib
from datetime import UTC, datetime
from pathlib import PurePosixPath

from asyncflow import uploads
from asyncflow.db.records import StoredFile
from asyncflow.errors import FileNotAvailable, JobNotFound
from asyncflow.naming import fitted, parted
from asyncflow.runtime import Runtime
from asyncflow.store.base import HasLocalPath
from asyncflow.web.downloads import Download


class JobFiles:
    """Finds originals and derivatives in a runtime's database."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def find(self, job_id: str, name: str, *, is_operator: bool) -> Download:
        """Return a file of a job.

        Until every gate has said yes only the operator may have it.

        Raises:
            JobNotFound, FileNotAvailable: there is no such file, or not for them.
        """
        if not uploads.is_id(job_id):
            raise JobNotFound
        found = await self._runtime.db.file(job_id, name)
        if not found.accepted and not is_operator:
            raise FileNotAvailable("the file has not passed its checks")
        store = self._runtime.store
        # Bytes under a key never change: the key says which bytes they are.
        etag = hashlib.blake2b(found.key.encode(), digest_size=12).hexdigest()
        return Download(
            path=store.path(found.key) if isinstance(store, HasLocalPath) else None,
            key=found.key,
            size=found.size,
            length=found.length,
            media_type=found.media_type,
            file_name=_shown_name(found),
            etag=etag,
            modified=datetime.fromtimestamp(found.at / 1000, UTC),
            coding=found.coding,
            sha256=found.sha256,
            plain_sha256=found.plain_sha256,
        )


def _shown_name(found: StoredFile) -> str:
    """Return `holiday-thumbnail.jpg` for the thumbnail of `holiday.heic`."""
    if found.is_original:
        return found.file_name
    stem, _suffix = parted(found.file_name)
    return fitted(stem, f"-{found.name}{PurePosixPath(found.key).suffix}")
