"""What a system says of files, as a store says it."""

import contextlib
from collections.abc import Iterator

from asyncflow.errors import (
    BlobExists,
    BlobNotFound,
    DiskFull,
    ServerBusy,
    StoreError,
    StoreUnavailable,
)
from asyncflow.processes import WANTS
from asyncflow.store import kernel


@contextlib.contextmanager
def lossless(what: str) -> Iterator[None]:
    """Say that bytes were lost, whatever the system's reason: no room is one, too."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{what}: the disk did not keep the bytes ({error.strerror})"
        ) from error


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what the system says into what a store says."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobNotFound(f"{what} is not in the store") from error
    except FileExistsError as error:
        raise BlobExists(f"{what} is in the store already") from error
    except IsADirectoryError as error:
        raise BlobNotFound(f"{what} is a folder of the store") from error
    except OSError as error:
        if kernel.is_no_room(error):
            raise DiskFull from error
        if error.errno in WANTS:
            raise ServerBusy(error.strerror) from error
        raise StoreError(f"{what}: {error.strerror}") from error
