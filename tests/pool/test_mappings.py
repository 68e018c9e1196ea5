"""How many mappings a process has is found out without reading all of them."""

import mmap
import os
from pathlib import Path

import pytest

from asyncflow import processes

MANY = 30_000
KINDS = (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE)
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def bytes_read() -> int:
    text = Path("/proc/self/io").read_text()
    return int(text.split("rchar:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts them")
def test_who_has_too_many_mappings_is_not_read_to_the_end() -> None:
    assert not processes.has_many_mappings(os.getpid())
    # neighbours of one kind would be one mapping
    kept = [
        mmap.mmap(-1, mmap.PAGESIZE, flags=ANONYMOUS, prot=KINDS[n % 2])
        for n in range(MANY)
    ]
    try:
        whole = len(Path("/proc/self/maps").read_bytes())
        before = bytes_read()
        assert processes.has_many_mappings(os.getpid())
        assert bytes_read() - before < 0.7 * whole
    finally:
        for one in kept:
            one.close()
