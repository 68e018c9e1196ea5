"""The pure rules of uploads: ids, keys, names, types, first bytes."""

import re
import unicodedata
import uuid

import pytest
from hypothesis import given, strategies as st

from asyncflow import uploads

times = st.integers(0, (1 << 48) - 1)
entropy = st.binary(min_size=10, max_size=10)


@given(now=times, random=entropy)
def test_an_id_is_a_uuid_of_version_7_that_holds_its_time(
    now: int, random: bytes
) -> None:
    found = uuid.UUID(uploads.new_id(now, random))
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == now
    assert uploads.is_id(str(found))


@given(now=times, random=entropy, bit=st.integers(0, 73))
def test_each_of_74_random_bits_counts(now: int, random: bytes, bit: int) -> None:
    # those below the variant, and those beside the version
    place = bit if bit < 62 else bit + 6
    other = (int.from_bytes(random, "big") ^ 1 << place).to_bytes(10, "big")
    assert uploads.new_id(now, random) != uploads.new_id(now, other)


@given(early=times, late=times, one=entropy, other=entropy)
def test_ids_sort_by_their_time(
    early: int, late: int, one: bytes, other: bytes
) -> None:
    if early < late:
        assert uploads.new_id(early, one) < uploads.new_id(late, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "../../etc/passwd",
        "01A20327-A3A3-7460-AD93-E9A93F525AB8",
        "01a20327a3a37460ad93e9a93f525ab8",
        "01a20327-a3a3-1460-ad93-e9a93f525ab8",
        "01a20327-a3a3-7460-cd93-e9a93f525ab8",
        "01a20327-a3a3-7460-ad93-e9a93f525ab8\n",
        " 01a20327-a3a3-7460-ad93-e9a93f525ab8",
        "\N{ARABIC-INDIC DIGIT ZERO}1a20327-a3a3-7460-ad93-e9a93f525ab8",
    ],
)
def test_nothing_else_is_an_id(text: str) -> None:
    assert not uploads.is_id(text)


@given(st.text())
def test_a_clean_name_is_one_harmless_line(name: str) -> None:
    shown = uploads.clean_name(name)
    assert 0 < len(shown) <= uploads.MAX_NAME
    assert not set(shown) & set("/\\\0\r\n")
    assert shown not in {".", ".."}
    assert shown == shown.strip(" .")
    bad = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    unjoined = shown.replace("\u200c", "").replace("\u200d", "")
    assert not bad & {unicodedata.category(char) for char in unjoined}


NEAR_JOINERS = st.text(
    st.sampled_from("ae\u00e9\u0301\u3000\u212a\u200c\u200d\u202e ./")
)


@given(st.text() | NEAR_JOINERS)
def test_a_clean_name_is_clean_already(name: str) -> None:
    shown = uploads.clean_name(name)
    assert uploads.clean_name(shown) == shown


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (None, "file"),
        ("", "file"),
        ("..", "file"),
        ("a/b\\c.txt", "c.txt"),
        ("a/", "file"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("x" * 300, "x" * 255),
        ("x." + "y" * 300, "x." + "y" * 253),
        ("e\u0301.txt", "\u00e9.txt"),
        (f"{FAMILY}.jpg", f"{FAMILY}.jpg"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",) * 2,
        ("pho\u200dto.jp\u200cg", "photo.jpg"),
        ("\u00e9\u200d\u200d\u00e9\u200d.txt", "\u00e9\u00e9.txt"),
        ("\u00e9\u200d\u202e\u00e9.txt", "\u00e9\u200d\u00e9.txt"),
        ("\u00e9\u200d" * 200 + ".jpeg", "\u00e9\u200d" * 124 + "\u00e9.jpeg"),
    ],
)
def test_names_are_shown_like_this(name: str | None, shown: str) -> None:
    assert uploads.clean_name(name) == shown


def test_a_text_is_called_one_whatever_its_charset() -> None:
    key = uploads.derivative_key("job", 3, 2, "text", "text/plain; charset=utf-8")
    assert key == "processed/job/3-2/text.txt"


@given(st.text(), st.sampled_from(["image/jpeg", "text/plain", "x/unheard-of", ""]))
def test_a_derivatives_key_is_one_plain_file_below_its_attempt(
    name: str, media_type: str
) -> None:
    key = uploads.derivative_key("job", 3, 2, name, media_type)
    assert re.fullmatch(r"processed/job/3-2/[A-Za-z0-9_-]{0,100}\.[a-z0-9]+", key)
    assert key.startswith(uploads.attempt_prefix("job", 3, 2))
    assert key.startswith(uploads.derivative_prefix("job"))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (None, ""),
        ("Image/JPEG", "image/jpeg"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("text", ""),
        ("a/b/c", ""),
        ("text/pl ain", ""),
        ("text/plain\nx", ""),
        ("*/*", ""),
    ],
)
def test_a_type_is_plain_or_nothing(text: str | None, plain: str) -> None:
    assert uploads.clean_type(text) == plain


@pytest.mark.parametrize(
    ("name", "said", "declared"),
    [
        ("a.png", "image/jpeg", "image/jpeg"),
        ("a.png", None, "image/png"),
        ("a.png", "application/octet-stream", "image/png"),
        ("a.png", "application/x-www-form-urlencoded", "image/png"),
        ("a", None, "application/octet-stream"),
        ("a.unheard-of", "nonsense", "application/octet-stream"),
        ("a.pdf.gz", None, "application/octet-stream"),
        ("a.pdf.gz", "application/gzip", "application/gzip"),
    ],
)
def test_what_a_client_says_beats_the_name_unless_it_says_nothing(
    name: str, said: str | None, declared: str
) -> None:
    assert uploads.declared_type(name, said) == declared


@pytest.mark.parametrize(
    ("media_type", "patterns", "allowed"),
    [
        ("image/png", (), True),
        ("image/png", ("image/*",), True),
        ("image/png", ("text/*", "image/p?g"), True),
        ("image/png", ("image/jpeg",), False),
        ("image/svg+xml", ("image/*",), True),
        ("application/pdf", ("*",), True),
    ],
)
def test_types_are_allowed_by_pattern(
    media_type: str, patterns: tuple[str, ...], *, allowed: bool
) -> None:
    assert uploads.is_allowed(media_type, patterns) is allowed


@pytest.mark.parametrize("offset_magic_type", uploads.SIGNATURES)
def test_each_signature_is_recognized(
    offset_magic_type: tuple[int, bytes, str],
) -> None:
    offset, magic, media_type = offset_magic_type
    head = b"\1" * offset + magic + b"\1" * 100
    assert uploads.signature(head) == media_type
    assert uploads.contradicts(media_type, head) is None


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\0\0\0\x20ftypavif", "image/avif"),
        (b"\0\0\0\x20ftypheic", "image/avif"),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"\0\0\0\x08wide", "video/quicktime"),
        (b"\xff\xfb\x90\x00", "audio/mpeg"),
        (b"\n\n%PDF-1.7", "application/pdf"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>", "text/html"),
        (b"<SCRIPT>", "text/html"),
        (b"<?xml version='1.0'?><svg", "image/svg+xml"),
        (b"hello", None),
        (b"", None),
    ],
)
def test_first_bytes_name_a_type(head: bytes, media_type: str | None) -> None:
    assert uploads.signature(head) == media_type


@pytest.mark.parametrize(
    ("declared", "head", "found"),
    [
        ("image/jpeg", b"<html>", "text/html"),
        ("image/jpeg", b"MZ", "application/x-msdownload"),
        ("image/jpeg", b"\x89PNG\r\n\x1a\n", None),
        ("image/jpeg", b"hello", "no known picture or document"),
        ("application/pdf", b"hello", "no known picture or document"),
        ("application/pdf", b"%PDF-", None),
        ("video/mp4", b"OggS", None),
        ("video/mp4", b"%PDF-", "application/pdf"),
        ("video/mp4", b"anything", None),
        ("audio/x-unheard-of", b"MZ", "application/x-msdownload"),
        ("text/plain", b"MZ", None),
        ("application/zip", b"hello", None),
        ("image/x-canon-cr2", b"hello", None),
    ],
)
def test_a_contradiction_is_what_cannot_be_of_the_declared_kind(
    declared: str, head: bytes, found: str | None
) -> None:
    assert uploads.contradicts(declared, head) == found


@given(st.binary(max_size=2000), st.sampled_from(sorted(uploads.KNOWN_TYPES)))
def test_any_first_bytes_are_judged(head: bytes, declared: str) -> None:
    found = uploads.contradicts(declared, head)
    assert found is None or found


def test_every_state_of_an_upload_is_in_the_table() -> None:
    table = uploads.UPLOAD_TRANSITIONS
    assert table.keys() == set(uploads.UploadState)
    reached = {state for moves in table.values() for state in moves.values()}
    assert reached | {uploads.UploadState.RECEIVING} == set(uploads.UploadState)
