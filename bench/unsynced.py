"""`python -m bench.unsynced serve …`: the server without its promise of durability.

Peers do not sync, so one row of `uploads` compares without it. Nobody else should.
"""

from asyncflow.cli import main
from asyncflow.store import kernel


def _trust_the_page_cache(fd: int) -> None:
    del fd


if __name__ == "__main__":
    kernel.sync_data = _trust_the_page_cache
    main()
