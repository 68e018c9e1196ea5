"""Whatever is done to uploads, in whatever order: stored is what was acknowledged.

A model knows for each upload the bytes its client means to send and how many of them
the server has acknowledged. A request that its client gave up may leave any number of
bytes up to those that were sent, and the server may come to it after later ones: until
an answer tells of more bytes, both are possible.
"""

import base64
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    multiple,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import booleans, floats, integers, lists, sampled_from

from tests.server_process import Answer, ServerProcess
from tests.web.live import CHUNK, TUS, Header, Line, code_of, healthy_server

SIZES = sampled_from([0, 1, 1000, 4096, 70_000, 300_000])
SHARE = floats(0, 1)
EXAMPLES = 6
STEPS = 25


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("interleavings")) as found:
        yield found


@dataclass(slots=True, kw_only=True)
class Sent:
    """An upload as its client knows it."""

    id: str
    data: bytes
    is_part: bool
    acknowledged: int = 0
    #: bytes that may have arrived beyond those
    maybe: int = 0
    is_ended: bool = False
    parts: list["Sent"] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return self.acknowledged == len(self.data)

    def hear(self, offset: int) -> None:
        """Compare an offset that the server tells with what it can be."""
        assert self.acknowledged <= offset <= self.acknowledged + self.maybe
        if offset > self.acknowledged:
            # an earlier request got so far and was stopped; none other fits any more
            self.acknowledged, self.maybe = offset, 0


class Uploads(RuleBasedStateMachine):
    """Clients that create, send, vanish, ask, end and join, and a server that dies."""

    uploads: Bundle[Sent] = Bundle("uploads")

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self.server = server
        self.all: list[Sent] = []

    def ask(
        self, method: str, upload: str, *headers: Header, body: bytes | None = None
    ) -> Answer:
        with Line(self.server) as line:
            return line.ask(method, f"/files/{upload}", TUS, *headers, body=body)

    @rule(target=uploads, size=SIZES, is_part=booleans(), seed=integers(0, 255))
    def create(self, size: int, is_part: bool, seed: int) -> Sent:  # noqa: FBT001 -- hypothesis gives it
        data = random.Random(seed).randbytes(size)
        headers: list[Header] = [("Upload-Length", str(size))]
        if is_part:
            headers.append(("Upload-Concat", "partial"))
        answer = self.ask("POST", "", *headers)
        assert answer.status == 201
        found = answer.headers["location"].rpartition("/")[2]
        made = Sent(id=found, data=data, is_part=is_part)
        self.all.append(made)
        return made

    def offset(self, upload: Sent) -> int | None:
        """Return the right offset, None for an upload that is over."""
        answer = self.ask("HEAD", upload.id)
        if upload.is_ended:
            assert answer.status in {404, 410}
            return None
        assert answer.status == 200
        upload.hear(int(answer.headers["upload-offset"]))
        return upload.acknowledged

    @rule(upload=uploads)
    def look(self, upload: Sent) -> None:
        self.offset(upload)

    @rule(upload=uploads, share=SHARE, checked=sampled_from(["", "right", "wrong"]))
    def send(self, upload: Sent, share: float, checked: str) -> None:
        at = self.offset(upload)
        if at is None or upload.parts:
            return
        piece = self.piece(upload, at, share)
        headers = [CHUNK, ("Upload-Offset", str(at))]
        if checked:
            value = hashlib.sha256(piece + b"x" * (checked == "wrong")).digest()
            named = f"sha256 {base64.b64encode(value).decode()}"
            headers.append(("Upload-Checksum", named))
        answer = self.ask("PATCH", upload.id, *headers, body=piece)
        if answer.status == 409 and upload.maybe:
            upload.hear(int(answer.headers["upload-offset"]))
            assert upload.acknowledged > at
            return
        if checked == "wrong" and not upload.is_whole:
            assert code_of(answer) == "checksum_mismatch"
            return
        assert answer.status == 204
        if piece:
            upload.acknowledged, upload.maybe = at + len(piece), 0
        assert answer.headers["upload-offset"] == str(upload.acknowledged)

    @staticmethod
    def piece(upload: Sent, at: int, share: float) -> bytes:
        left = len(upload.data) - at
        return upload.data[at : at + round(left * share)]

    @rule(upload=uploads, off=sampled_from([-1, 1, 10**6]))
    def send_at_a_wrong_offset(self, upload: Sent, off: int) -> None:
        at = self.offset(upload)
        if at is None or upload.parts or at + off < 0 or upload.maybe:
            return
        wrong = ("Upload-Offset", str(at + off))
        answer = self.ask("PATCH", upload.id, CHUNK, wrong, body=b"never kept")
        assert (answer.status, answer.headers["upload-offset"]) == (409, str(at))

    def hang(self, upload: Sent, share: float, then: Callable[[], None]) -> None:
        """Announce all that is left, send a share of it, and do something else."""
        at = self.offset(upload)
        if at is None or upload.parts or upload.is_whole:
            return
        left = len(upload.data) - at
        piece = self.piece(upload, at, share)
        headers = [TUS, CHUNK, ("Upload-Offset", str(at))]
        with Line(self.server) as line:
            line.head("PATCH", f"/files/{upload.id}", *headers, length=left)
            line.send(piece)
            upload.maybe = max(upload.maybe, len(piece))
            then()

    @rule(upload=uploads, share=SHARE)
    def vanish(self, upload: Sent, share: float) -> None:
        self.hang(upload, share, lambda: None)

    @rule(upload=uploads, share=SHARE)
    def go_on_from_elsewhere(self, upload: Sent, share: float) -> None:
        self.hang(upload, share, partial(self.send, upload, share, ""))

    @rule(upload=uploads, share=SHARE)
    def end_while_it_hangs(self, upload: Sent, share: float) -> None:
        self.hang(upload, share, partial(self.end, upload))

    @rule(upload=uploads)
    def end(self, upload: Sent) -> None:
        at = self.offset(upload)
        answer = self.ask("DELETE", upload.id)
        if at is None:
            assert answer.status in {404, 410}
        elif answer.status == 403:
            assert code_of(answer) == "upload_complete"
            assert not upload.is_part
            upload.hear(len(upload.data))
        else:
            assert answer.status == 204
            assert upload.is_part or not upload.is_whole
            upload.is_ended = True

    @rule(target=uploads, some=lists(uploads, min_size=1, max_size=4))
    def join(self, some: list[Sent]) -> Sent | MultipleResults[Sent]:
        offsets = [self.offset(one) for one in some]
        if any(one.maybe for one in some if not one.is_ended):
            return multiple()
        usable = all(one.is_part and not one.is_ended for one in some)
        named = "final;" + " ".join(f"/files/{one.id}" for one in some)
        answer = self.ask("POST", "", ("Upload-Concat", named))
        if not usable:
            assert code_of(answer) == "part_not_usable"
            return multiple()
        assert answer.status == 201
        made = Sent(
            id=answer.headers["asyncflow-job-id"],
            data=b"".join(one.data for one in some),
            is_part=False,
            parts=some,
        )
        if not all(one.is_whole for one in some):
            assert None not in offsets
            self.ask("DELETE", made.id)
            return multiple()
        made.acknowledged = len(made.data)
        self.all.append(made)
        return made

    @rule(upload=uploads, share=SHARE)
    def die(self, upload: Sent, share: float) -> None:
        self.hang(upload, share, self.restart)

    def restart(self) -> None:
        self.server.kill()
        with suppress(FileNotFoundError):
            # a killed process may leave half a line
            self.server.log_path.unlink()
        self.server.start()

    @rule(upload=consumes(uploads))
    def forget(self, upload: Sent) -> None:
        """Let the client lose interest; what it sent is looked at all the same."""

    def teardown(self) -> None:
        for upload in self.all:
            if self.offset(upload) is None:
                continue
            (blob,) = (self.server.data_dir / "store").rglob(upload.id)
            stored = blob.read_bytes()
            assert upload.data.startswith(stored)
            assert 0 <= len(stored) - upload.acknowledged <= upload.maybe
            if upload.is_whole and upload.data and not upload.is_part:
                found = self.server.finished(upload.id)
                assert found["fileSize"] == len(upload.data)


@pytest.mark.timeout(90)
def test_what_is_stored_is_what_was_acknowledged(server: ServerProcess) -> None:
    class Machine(Uploads):
        def __init__(self) -> None:
            super().__init__(server)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            database=None,
            # another order of the same steps would meet other moments: nothing shrinks
            phases=(Phase.generate,),
            report_multiple_bugs=False,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
