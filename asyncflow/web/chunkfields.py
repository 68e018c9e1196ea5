"""What the request of a chunk says: which one of which file, and what that is.

Rules
-----
- What is said of the file may come with any chunk, and never contradict what was said
  with another. What came expressly is kept as Upload-Metadata.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final

import msgspec

from asyncflow import uploads
from asyncflow.engine import PIPELINE
from asyncflow.errors import InvalidParameter
from asyncflow.uploads import Checksum
from asyncflow.web.base64body import Base64Body, split
from asyncflow.web.parsing import json_body, read_metadata, shown_metadata

CHUNK: Final = "chunk"
MAX_CHUNKS: Final = 10_000
#: keys of Upload-Metadata -> fields that say the same here
ABOUT: Final[Mapping[str, str]] = {"filename": "fileName", "filetype": "fileType"}

_NUMBER = re.compile(r"[0-9]{1,9}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class _Json(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
):
    chunk_index: Annotated[int, msgspec.Meta(ge=0)]
    total_chunks: Annotated[int, msgspec.Meta(ge=1)]
    chunk: str
    job_id: str = ""
    file_name: str = ""
    file_type: str = ""
    sha256: str = ""
    pipeline: str = ""


_json_body = msgspec.json.Decoder(_Json)


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk's request says, checked."""

    index: int
    total: int
    job: str | None
    #: `filename` and `filetype`, as far as they were said expressly
    about: Mapping[str, str]
    #: what its part of the form is called
    fallback: str
    digest: Checksum | None
    pipeline: str


def said_in(text: bytearray) -> tuple[Fields, Base64Body]:
    """Return what a chunk in JSON says, and its bytes."""
    beside, body = split(text, CHUNK)
    said = json_body(_json_body, beside)
    if said.chunk:
        accepted = "one string, under this name as it is"
        raise InvalidParameter(CHUNK, said.chunk[:40], accepted=accepted)
    fields = {
        "chunkIndex": str(said.chunk_index),
        "totalChunks": str(said.total_chunks),
        "jobId": said.job_id,
        "fileName": said.file_name,
        "fileType": said.file_type,
        "sha256": said.sha256,
        PIPELINE: said.pipeline,
    }
    return fields_of(fields), body


def fields_of(said: Mapping[str, str], *, fallback: str = "") -> Fields:
    """Return what fields say; *fallback* is what the chunk's own part is called.

    Raises:
        InvalidParameter: one is missing, or is none.
    """
    total = _number(said, "totalChunks", least=1, most=MAX_CHUNKS)
    job = said.get("jobId") or None
    if job is not None and not uploads.is_id(job.lower()):
        accepted = "a random UUID (version 4), or the jobId of an earlier answer"
        raise InvalidParameter("jobId", job, accepted=accepted)
    name = said.get("fileName", "").strip()
    about = {
        "filename": uploads.clean_name(name) if name else "",
        "filetype": uploads.clean_type(said.get("fileType")),
    }
    return Fields(
        index=_number(said, "chunkIndex", least=0, most=total - 1),
        total=total,
        job=None if job is None else job.lower(),
        about={name: value for name, value in about.items() if value},
        fallback=fallback,
        digest=_sha256(said.get("sha256", "")),
        pipeline=said.get(PIPELINE, ""),
    )


def _sha256(text: str) -> Checksum | None:
    if not text:
        return None
    if not _SHA256.fullmatch(text):
        raise InvalidParameter("sha256", text, accepted="64 hexadecimal digits")
    return Checksum(algorithm="sha256", value=bytes.fromhex(text))


def _number(said: Mapping[str, str], name: str, *, least: int, most: int) -> int:
    value = said.get(name)
    if value is None or not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
        accepted = f"a whole number from {least} to {most}"
        raise InvalidParameter(name, value, accepted=accepted)
    return int(value)


def called(about: Mapping[str, str], fallback: str) -> tuple[str, str]:
    """Return the name of a file and its declared type."""
    name = uploads.clean_name(about.get("filename") or fallback)
    return name, uploads.declared_type(name, about.get("filetype"))


def said_with(fields: Fields, before: uploads.Said) -> uploads.Said:
    """Return what is said of the file with this chunk as well.

    Raises:
        InvalidParameter: it contradicts what was said before.
    """
    known = read_metadata(before.raw_metadata)
    for name, value in fields.about.items():
        if known.get(name, value) != value:
            accepted = f"{known[name]!r}, as with another chunk"
            raise InvalidParameter(ABOUT[name], value, accepted=accepted)
    digest = "" if fields.digest is None else str(fields.digest)
    if fields.digest is not None and before.digest not in {"", digest}:
        accepted = "the one that came with another chunk"
        raise InvalidParameter("sha256", fields.digest.value.hex(), accepted=accepted)
    said = replace(before, digest=before.digest or digest)
    about = {**fields.about, **known}
    if about == known:
        return said
    name, kind = called(about, before.file_name)
    raw = shown_metadata(about)
    return replace(said, file_name=name, declared_type=kind, raw_metadata=raw)
