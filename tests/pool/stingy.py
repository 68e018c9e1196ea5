"""A function that has another one work with less room than it asks for."""

import dataclasses
import mmap
import resource
from pathlib import Path

from asyncflow.processors.base import REGISTRY, Result, Work, options_of, processor


@processor("stingy", accepts=("*",), outputs=("*",), resident=True)
def stingy(work: Work) -> Result:
    other = REGISTRY[str(work.options["run"])]
    given = dataclasses.replace(
        work,
        file_name="picture.jpg",
        media_type="image/jpeg",
        options=options_of(other, {}),
    )
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    room = int(str(work.options["mib"])) << 20
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + room, hard))
    found: Result = other.run(given)
    return found
