"""Backs up a data folder while its server runs, restores it, and checks it.

Theory of operation
-------------------
The database is copied first, as it is at one moment; then the blobs that this copy
names. A blob that a row names never changes again, so it does not matter when it is
copied, as long as it is still there. One that is gone by then was deleted meanwhile, or
is lost: a newer copy of the database tells. If that does not name it either, the newer
copy is the backup; if it does, bytes are missing, and the backup says so.

Rules
-----
- Unfinished uploads are left out: nobody was told that their bytes are safe. Those that
  are only to be put together are named, for somebody may have been told.
- `backup.json` is written last; a folder without it is no backup.
- The database comes into a restored folder last, under the lock of a server.
"""

import asyncio
import hashlib
import io
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from asyncflow import __version__
from asyncflow.db.snapshot import (
    NamedBlob,
    Unjoined,
    check_schema,
    copy_database,
    named_blobs,
)
from asyncflow.errors import BackupError
from asyncflow.runtime import DATABASE, LOCK, STORE, FolderLock
from asyncflow.store.local import LocalStore
from asyncflow.web.auth import TOKEN_FILE

MANIFEST = "backup.json"
#: newer copies of the database, while people keep deleting
ROUNDS = 10
#: blobs in work at once: enough to keep a disk busy beside a server
AT_ONCE = 4
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: told how many of how many blobs are done
Told = Callable[[int, int], None]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a backup says of itself.

    `deleted`: blobs that people deleted while the backup ran; they are not in it.
    `missing`: keys that rows name although their bytes were not there, or not whole.
    `unjoined`: files whose bytes have all come, in parts; they are not in it.
    """

    version: str
    taken_at: str
    blobs: int
    bytes: int
    deleted: int
    missing: tuple[str, ...]
    unjoined: tuple[Unjoined, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A blob that is not what its row says."""

    blob: NamedBlob
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore brought back: *blobs* whole ones; *damages* are the others."""

    blobs: int
    damages: tuple[Damage, ...]


async def back_up(
    data_dir: Path, target: Path, *, taken_at: str, told: Told = lambda _n, _of: None
) -> Manifest:
    """Copy all that is whole in *data_dir* to *target*, absent or empty until now.

    Raises:
        BackupError: there is nothing to copy, or *target* cannot take it.
    """
    if not (data_dir / DATABASE).is_file():
        raise BackupError(f"there is no database in {data_dir}: is it the data folder?")
    _refuse_nested(data_dir, target)
    _make_empty(target)
    source, copies = LocalStore(data_dir / STORE), LocalStore(target / STORE)
    try:
        manifest = await _copy_all(data_dir, target, source, copies, taken_at, told)
    finally:
        await source.close()
        await copies.close()
    _copy_token(data_dir, target)
    text = msgspec.json.format(msgspec.json.encode(manifest))
    _write(target / MANIFEST, io.BytesIO(text))
    return manifest


async def _copy_all(
    data_dir: Path,
    target: Path,
    source: LocalStore,
    copies: LocalStore,
    taken_at: str,
    told: Told,
) -> Manifest:
    copied: dict[str, int] = {}
    suspects: set[str] = set()
    for _ in range(ROUNDS):
        wanted, unjoined = await asyncio.to_thread(_snapshot, data_dir, target)
        named = {blob.key for blob in wanted}
        todo = [blob for blob in wanted if blob.key not in copied]
        absent = await _copy_blobs(todo, source, copies, copied, told)
        # named by two copies of the database, the second newer than the first look
        lost = absent & suspects
        if absent == lost:
            break
        suspects |= absent
    else:
        raise BackupError("files are deleted faster than they can be copied: try again")
    stale = copied.keys() - named
    for key in stale:
        await copies.delete(key)
    return Manifest(
        version=__version__,
        taken_at=taken_at,
        blobs=len(copied) - len(stale),
        bytes=sum(size for key, size in copied.items() if key in named),
        deleted=len(stale | (suspects - lost)),
        missing=tuple(sorted(lost)),
        unjoined=unjoined,
    )


def _snapshot(
    data_dir: Path, target: Path
) -> tuple[list[NamedBlob], tuple[Unjoined, ...]]:
    fresh = target / f"{DATABASE}.new"
    fresh.unlink(missing_ok=True)
    unjoined = copy_database(data_dir / DATABASE, fresh)
    fresh.chmod(0o600)
    fresh.replace(target / DATABASE)
    return list(named_blobs(target / DATABASE)), unjoined


async def _copy_blobs(
    todo: list[NamedBlob],
    source: LocalStore,
    copies: LocalStore,
    copied: dict[str, int],
    told: Told,
) -> set[str]:
    """Copy *todo*, noting sizes in *copied*; return the keys that are not whole."""
    absent: set[str] = set()

    async def one(blob: NamedBlob) -> None:
        size = await _copy(source.path(blob.key), copies, blob)
        if size is None:
            absent.add(blob.key)
        else:
            copied[blob.key] = size

    await _in_turns(todo, one, told)
    return absent


async def _copy(path: Path, copies: LocalStore, blob: NamedBlob) -> int | None:
    """Copy one blob; None: it is not there, or not as long as its row says."""
    try:
        fd = await asyncio.to_thread(os.open, path, _READ)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(fd).st_size
        if size != blob.size:
            return None
        await copies.put(blob.key, fd)
    finally:
        os.close(fd)
    return size


async def _in_turns(
    blobs: Sequence[NamedBlob],
    work: Callable[[NamedBlob], Awaitable[None]],
    told: Told,
) -> None:
    """Do *work* for each of *blobs*, a few at once."""
    left, done = iter(blobs), 0

    async def hand() -> None:
        nonlocal done
        for blob in left:
            await work(blob)
            done += 1
            told(done, len(blobs))

    try:
        async with asyncio.TaskGroup() as hands:
            for _ in range(AT_ONCE):
                hands.create_task(hand())
    except ExceptionGroup as group:
        # the first failure ends the others; it says all there is to say
        raise group.exceptions[0] from None


# ----- restore


async def restore(
    source: Path, data_dir: Path, *, told: Told = lambda _n, _of: None
) -> Restored:
    """Make *data_dir*, absent or empty until now, what the backup *source* holds.

    Each blob is read again where it now lies. Those that the backup knows to be missing
    stay so; those that were damaged in it are told, and the rest is restored.

    Raises:
        BackupError: *source* is no whole backup, or *data_dir* is not empty.
        DataDirInUse: a server runs in *data_dir*.
    """
    manifest = _manifest(source)
    await asyncio.to_thread(check_schema, source / DATABASE)
    _refuse_nested(source, data_dir)
    _make_empty(data_dir)
    lock = FolderLock(data_dir)
    lock.take()
    backed_up, store = LocalStore(source / STORE), LocalStore(data_dir / STORE)
    try:
        blobs = await asyncio.to_thread(list, named_blobs(source / DATABASE))
        wanted = [blob for blob in blobs if blob.key not in manifest.missing]
        damages = await _bring_back(wanted, backed_up, store, told)
        _copy_token(source, data_dir)
        await asyncio.to_thread(_copy_file, source / DATABASE, data_dir / DATABASE)
    finally:
        await backed_up.close()
        await store.close()
        lock.release()
    return Restored(blobs=len(wanted) - len(damages), damages=damages)


async def _bring_back(
    wanted: list[NamedBlob], backed_up: LocalStore, store: LocalStore, told: Told
) -> tuple[Damage, ...]:
    """Copy *wanted* and compare each with its row; return those that differ."""
    found: dict[str, Damage] = {}

    async def one(blob: NamedBlob) -> None:
        size = await _copy(backed_up.path(blob.key), store, blob)
        place = backed_up if size is None else store
        why = await asyncio.to_thread(_fault, place.path(blob.key), blob)
        if size is None or why is not None:
            found[blob.key] = Damage(blob=blob, why=why or "it was not whole")

    await _in_turns(wanted, one, told)
    return tuple(found[key] for key in sorted(found))


# ----- verify


async def verify(data_dir: Path, *, told: Told = lambda _n, _of: None) -> list[Damage]:
    """Read every blob that a row names; return those that are not what it says.

    Raises:
        BackupError: there is no database in *data_dir*.
    """
    database = data_dir / DATABASE
    if not database.is_file():
        raise BackupError(f"there is no database in {data_dir}: is it the data folder?")
    store = LocalStore(data_dir / STORE)
    found: dict[str, Damage] = {}

    async def one(blob: NamedBlob) -> None:
        why = await asyncio.to_thread(_fault, store.path(blob.key), blob)
        if why is not None:
            found[blob.key] = Damage(blob=blob, why=why)

    try:
        blobs = await asyncio.to_thread(list, named_blobs(database))
        await _in_turns(blobs, one, told)
    finally:
        await store.close()
    # what nothing names any more was deleted while we read
    still = {blob.key for blob in await asyncio.to_thread(list, named_blobs(database))}
    return [found[key] for key in sorted(found.keys() & still)]


def _fault(path: Path, blob: NamedBlob) -> str | None:
    """Say what is wrong with a blob's bytes; None: nothing."""
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return "its bytes are missing"
    except OSError as error:
        return f"its bytes cannot be read: {error.strerror}"
    with open(fd, "rb") as file:  # noqa: PTH123 -- a descriptor
        size = os.fstat(fd).st_size
        if size != blob.size:
            return f"it has {size} bytes instead of {blob.size}"
        if blob.sha256 is None:
            return None
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"its bytes cannot be read: {error.strerror}"
    return None if digest == blob.sha256 else "its bytes have another sha256"


# ----- folders and small files


def _refuse_nested(one: Path, other: Path) -> None:
    inner, outer = one.resolve(), other.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise BackupError(f"{one} and {other} must not lie within each other")


def _make_empty(folder: Path) -> None:
    """Make *folder*, or take it as it is if nothing is in it but a server's lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(entry.name != LOCK for entry in folder.iterdir()):
        raise BackupError(f"{folder} is not empty: name a new folder")


def _manifest(source: Path) -> Manifest:
    try:
        return msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BackupError(
            f"{source} has no {MANIFEST}: it is no backup, or one that was cut short"
        ) from None
    except msgspec.DecodeError as error:
        raise BackupError(f"{source / MANIFEST} cannot be read: {error}") from error


def _copy_token(source: Path, target: Path) -> None:
    if (source / TOKEN_FILE).is_file():
        _copy_file(source / TOKEN_FILE, target / TOKEN_FILE)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        _write(target, file)


def _write(path: Path, data: BinaryIO) -> None:
    """Write a file atomically and durably, for nobody else to read."""
    draft = path.with_name(f"{path.name}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 -- a descriptor
        shutil.copyfileobj(data, file)
        file.flush()
        os.fsync(fd)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
