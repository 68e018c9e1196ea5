"""Processes below the fork server that are no workers: what runs have left behind.

Theory of operation
-------------------
The fork server adopts whoever loses its parent. Whose an orphan is, its process group
says: with the filter of system calls nobody can leave it. What is in no worker's group
all the same (there is no filter, or it was started while a module was loaded) belongs
to nobody, and ends.
"""

from collections.abc import Callable, Collection, Mapping

from asyncflow import processes


class Strays:
    """Finds orphans and ends them; *workers* tells the workers' process ids."""

    def __init__(self, workers: Callable[[], Collection[int]]) -> None:
        self._workers = workers
        #: workers that have been killed and may not be gone yet
        self.dying: set[int] = set()

    def find(self, fork_server: int | None) -> dict[int, int | None]:
        """Return the orphans that the *fork_server* has, with their process groups."""
        if fork_server is None:
            return {}
        known = {*self._workers(), *self.dying}
        children = processes.children(fork_server, threads=1)
        found = (pid for pid in children if pid not in known)
        return {pid: processes.group_of(pid) for pid in found}

    def end(self, strays: Mapping[int, int | None]) -> bool:
        """Kill *strays* that are in no living worker's group; tell if any were left.

        Those of a worker that dies just now are no leftovers: they go with it.
        """
        living, left = self._workers(), False
        for pid, group in strays.items():
            if group not in living:
                processes.kill_stray(pid)
                left = left or not (group is None or group in self.dying)
        return left
