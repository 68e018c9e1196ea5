"""The server is killed again and again while people upload and it works.

`ASYNCFLOW_KILLS` says how often (40), `ASYNCFLOW_SEED` repeats a run's choices.
"""

import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from asyncflow import processes
from tests.crash.evidence import Evidence, check_picture
from tests.crash.people import GIVE_UP_S, Person
from tests.faults import probe, watch
from tests.server_process import ServerProcess

KILLS = int(os.environ.get("ASYNCFLOW_KILLS", "40"))
SEED = int(os.environ.get("ASYNCFLOW_SEED", random.randrange(1_000_000)))
PEOPLE = 3
#: how long what a killed server started may live on
ORPHANS_S = 10.0


class Killer:
    """Starts a server and kills it, again and again."""

    def __init__(self, server: ServerProcess, rng: random.Random) -> None:
        self.server = server
        self.rng = rng
        self.up = threading.Event()

    def start(self) -> None:
        self.server.start()
        self.up.set()

    def round(self) -> None:
        """Let the server live for a while, kill it, look for orphans, start it."""
        time.sleep(self.rng.uniform(0.0, 0.6))
        self._kill()
        if self.rng.random() < 0.2:
            # while it starts, recovers, or has just begun to listen
            self.server.spawn()
            time.sleep(self.rng.uniform(0.1, 1.0))
            self._kill()
        self.start()

    def _kill(self) -> None:
        self.up.clear()
        family = processes.tree(self.server.pid)[1:]
        self.server.kill()
        watch.until_gone(family, ORPHANS_S)


def say(line: str) -> None:
    """Tell whoever reads the report of a failure."""
    sys.stdout.write(f"{line}\n")


@pytest.mark.timeout(300 + 8 * KILLS)
def test_nothing_accepted_is_lost_or_done_twice(tmp_path: Path) -> None:
    say(f"ASYNCFLOW_SEED={SEED} ASYNCFLOW_KILLS={KILLS}")
    rng = random.Random(SEED)
    server = ServerProcess(
        data_dir=tmp_path / "data",
        settings={"workers": "2", "log_level": "warning"},
        wrap=probe.install(tmp_path / "plugin"),
    )
    killer, stop = Killer(server, rng), threading.Event()
    people = [
        Person(server=server, rng=random.Random(SEED + n), stop=stop, up=killer.up)
        for n in range(1, PEOPLE + 1)
    ]
    threads = [threading.Thread(target=person.live) for person in people]
    try:
        killer.start()
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            killer.round()
        stop.set()
        for thread in threads:
            thread.join(2 * GIVE_UP_S)
        for person in people:
            if person.failure is not None:
                raise person.failure
        come_to_rest(server, people)
        assert server.stop() == 0
    finally:
        stop.set()
        killer.up.set()
        if server.process is not None and server.process.poll() is None:
            server.kill()

    check(Evidence(server.data_dir), people)


def come_to_rest(server: ServerProcess, people: list[Person]) -> None:
    """Wait until every accepted job is over and the trash is empty."""
    for person in people:
        for job in person.accepted:
            found = server.finished(job, 90)
            if found["status"] == "FAILED":
                # Ten kills may all have met one step: that is said, and can be retried.
                assert found["error"]["code"] == "interrupted", found
                assert server.request("POST", f"/jobs/{job}/retry").status == 202
                server.finished(job, 90)
    evidence, end = Evidence(server.data_dir), time.monotonic() + 30
    while evidence.ask("SELECT key FROM trash"):
        assert time.monotonic() < end, "the trash is not emptied"
        time.sleep(0.1)


def check(evidence: Evidence, people: list[Person]) -> None:
    """Compare what people were promised with what is there."""
    accepted = {job: sent for one in people for job, sent in one.accepted.items()}
    resumed = sum(person.resumed for person in people)
    cut = evidence.ask("SELECT count(*) FROM attempt WHERE verdict = 'interrupted'")
    say(f"{len(accepted)} accepted, {resumed} resumed, {cut[0][0]} steps interrupted")
    assert len(accepted) > KILLS
    assert cut[0][0] > KILLS // 4, "the kills hit no step"
    assert resumed > KILLS // 8, "the kills hit no upload"
    evidence.check()
    evidence.check_originals({job: sent.sha256 for job, sent in accepted.items()})
    deleted = {job for person in people for job in person.deleted}
    assert not deleted & {pid for (pid,) in evidence.ask("SELECT pid FROM job")}
    states = evidence.states(accepted)
    assert {state for state, _error in states.values()} == {"COMPLETED"}, states
    shapes: dict[str, set[frozenset[str]]] = {}
    for job, sent in accepted.items():
        files = evidence.files(job)
        shapes.setdefault(sent.name, set()).add(frozenset(files))
        if sent.name != "probe.txt":
            for data in files.values():
                check_picture(data)
    for name in shapes.keys() - {"probe.txt"}:
        (names,) = shapes[name]
        assert names, f"nothing was made of {name}"
    for person in people:
        for (job, name), data in person.seen.items():
            assert evidence.files(job)[name] == data, "a step took effect twice"
