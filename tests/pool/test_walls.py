"""One bad file fails alone: crashes, hangs, hogs, forks, lies and rubbish."""

import asyncio
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncflow import sandbox, syscalls
from asyncflow.jobs import Verdict
from asyncflow.pool import Made, Pool
from tests.pool.conftest import Crew
from tests.pool.probes import ALLOWED

needs_landlock = pytest.mark.skipif(
    sandbox.landlock_abi() < 4, reason="this kernel's Landlock is older than ABI 4"
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

needs_filter = pytest.mark.skipif(
    not syscalls.can_filter(), reason="no seccomp for this machine"
)


async def until(holds: Callable[[], bool], within_s: float) -> None:
    """Return when the condition holds; the kernel has no event for these."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 -- see above
            await asyncio.sleep(0.01)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def at_full_strength(crew: Crew) -> None:
    """Both workers take orders again, within 2 s."""
    started = time.monotonic()
    assert crew.pool.free == 2
    both = await asyncio.gather(crew.run("surroundings"), crew.run("surroundings"))
    assert {one.verdict for one in both} == {Verdict.DONE}
    assert len({one.facts["pid"] for one in both}) == 2
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("how", ["abort", "segv", "exit", "kill"])
async def test_a_crash_fails_alone_among_innocents(crew: Crew, how: str) -> None:
    before = [asyncio.create_task(crew.run("echo")) for _ in range(4)]
    bad = asyncio.create_task(crew.run("dies", how=how))
    after = [asyncio.create_task(crew.run("echo")) for _ in range(8)]
    outcome = await bad
    assert (outcome.verdict, outcome.code) == (Verdict.LOST, "crashed")
    innocents = await asyncio.gather(*before, *after)
    assert {one.verdict for one in innocents} == {Verdict.DONE}
    await at_full_strength(crew)


async def test_a_death_names_its_signal(crew: Crew) -> None:
    assert "SIGSEGV" in (await crew.run("dies", how="segv")).detail
    assert "exit code 7" in (await crew.run("dies", how="exit")).detail


@pytest.mark.parametrize("gil", [False, True])
async def test_a_hang_ends_at_its_wall_time(crew: Crew, *, gil: bool) -> None:
    started = time.monotonic()
    innocent = asyncio.create_task(crew.run("echo"))
    outcome = await crew.run("spins", gil=gil, wall_s=0.4)
    assert (outcome.verdict, outcome.code) == (Verdict.ERROR, "timeout")
    assert "0.4 s" in outcome.detail
    assert time.monotonic() - started < 2
    assert (await innocent).verdict is Verdict.DONE
    await at_full_strength(crew)


async def test_a_slow_store_does_not_count_as_a_hang(crew: Crew) -> None:
    async def slowly(made: Made) -> None:
        await asyncio.sleep(0.3 if made.name == "third" else 0)

    outcome = await crew.run("publishes", wall_s=0.2, on_derivative=slowly)
    assert outcome.verdict is Verdict.DONE


async def test_a_slow_hog_is_killed_at_the_budget(crew: Crew) -> None:
    outcome = await crew.run("hogs", block=8)
    assert (outcome.verdict, outcome.code) == (Verdict.LOST, "out_of_memory")
    await at_full_strength(crew)


async def test_a_greedy_hog_meets_the_address_space_limit(crew: Crew) -> None:
    outcome = await crew.run("hogs", block=2048)
    assert (outcome.verdict, outcome.code) == (Verdict.LOST, "out_of_memory")
    await at_full_strength(crew)


@pytest.mark.parametrize("then", ["return", "crash"])
async def test_children_do_not_outlive_their_run(crew: Crew, then: str) -> None:
    await crew.run("forks", then=then)
    pids = crew.facts["pids"]
    assert isinstance(pids, list)
    assert len(pids) == 2
    await until(lambda: not any(map(is_alive, pids)), within_s=2)
    await at_full_strength(crew)


@needs_filter
async def test_a_daemon_neither_leaves_its_group_nor_outlives_its_run(
    crew: Crew,
) -> None:
    pids = [info.pid for info in crew.pool.workers()]
    both = await asyncio.gather(
        *(crew.run("daemonises", group=pid) for pid in pids),
    )
    for one in both:
        assert one.verdict is Verdict.DONE, one
        assert one.facts["left"] == 0
    daemons = [int(str(one.facts["daemon"])) for one in both]
    await until(lambda: not any(map(is_alive, daemons)), within_s=2)
    await until(
        lambda: not {info.pid for info in crew.pool.workers()} & set(pids), within_s=2
    )
    await at_full_strength(crew)


@needs_linux
async def test_what_has_left_all_groups_is_found_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module is loaded before the filter is there, as all is where there is none."""
    (tmp_path / "with_a_daemon.py").write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        with open({str(tmp_path / 'pid')!r}, 'a') as file:\n"
        "            print(os.getpid(), file=file)\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = Pool(
        size=1,
        folder=tmp_path / "slots",
        modules=("tests.pool.hostile", "with_a_daemon"),
    )
    await pool.start()
    try:
        (daemon,) = map(int, (tmp_path / "pid").read_text().split())
        await until(lambda: not is_alive(daemon), within_s=2)
    finally:
        await pool.close()


async def test_cancelling_kills_the_worker_and_its_group_only(crew: Crew) -> None:
    told = asyncio.Event()

    async def take(made: Made) -> None:
        await crew.take(made)
        told.set()

    run = asyncio.create_task(crew.run("forks", then="wait", on_derivative=take))
    await asyncio.wait_for(told.wait(), 10)
    workers = {info.state: info.pid for info in crew.pool.workers()}
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    pids = crew.facts["pids"]
    assert isinstance(pids, list)
    doomed = [*pids, workers["running"]]
    await until(lambda: not any(map(is_alive, doomed)), within_s=2)
    assert is_alive(workers["idle"])
    await at_full_strength(crew)


async def test_a_fork_bomb_is_stopped(crew: Crew) -> None:
    outcome = await crew.run("bombs")
    assert outcome.verdict in (Verdict.ERROR, Verdict.LOST)
    await at_full_strength(crew)


async def test_a_killed_fork_server_is_replaced(crew: Crew) -> None:
    nursery = crew.pool.fork_server_pid
    assert nursery is not None
    workers = [info.pid for info in crew.pool.workers()]
    os.kill(nursery, 9)
    await until(lambda: not any(map(is_alive, workers)), within_s=2)
    await until(lambda: workers != [i.pid for i in crew.pool.workers()], within_s=5)
    assert (await crew.run("echo")).verdict is Verdict.DONE
    assert crew.pool.fork_server_pid != nursery


async def test_a_worker_that_dies_idle_is_replaced(crew: Crew) -> None:
    victim = crew.pool.workers()[0].pid
    os.kill(victim, 9)
    await until(
        lambda: victim not in [info.pid for info in crew.pool.workers()], within_s=2
    )
    await at_full_strength(crew)
    assert crew.losses == ["crashed"]


@pytest.mark.parametrize(
    "what",
    [
        "symlink",
        "inner symlink",
        "hard link",
        "fifo",
        "folder",
        "outside",
        "climbing",
        "undeclared",
        "name",
        "missing",
        "report",
    ],
)
async def test_only_plain_declared_files_leave_a_slot(crew: Crew, what: str) -> None:
    outcome = await crew.run("leaves", what=what)
    assert (outcome.verdict, outcome.code) == (Verdict.BAD_OUTPUT, "bad_output")
    assert outcome.cause
    assert crew.made == []
    await at_full_strength(crew)


async def test_a_derivative_that_changes_while_it_is_read_is_refused(
    crew: Crew,
) -> None:
    async def slowly(_made: Made) -> None:
        await asyncio.sleep(0.1)

    outcome = await crew.run("rewrites", on_derivative=slowly)
    assert outcome.code == "bad_output"
    assert "changed" in outcome.cause
    await at_full_strength(crew)


@pytest.mark.parametrize(
    "report",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"token": 0, "verdict": "done"}',
        '{"token": "1", "verdict": "done"}',
        "huge",
        "fifo",
        "none",
        "\x00\xff",
    ],
)
async def test_a_forged_report_is_refused(crew: Crew, report: str) -> None:
    outcome = await crew.run("forges", report=report, in_a_message=False)
    assert (outcome.verdict, outcome.code) == (Verdict.BAD_OUTPUT, "bad_output")
    await at_full_strength(crew)


@pytest.mark.parametrize(
    "report",
    [
        "[]",
        "7",
        '{"token": 0, "verdict": "done"}',
        '{"token": "1", "verdict": "done"}',
        '{"token": 1, "verdict": "interrupted"}',
    ],
)
async def test_a_report_forged_in_a_message_is_refused(crew: Crew, report: str) -> None:
    outcome = await crew.run("forges", report=report, in_a_message=True)
    assert (outcome.verdict, outcome.code) == (Verdict.BAD_OUTPUT, "bad_output")
    await at_full_strength(crew)


async def test_a_worker_that_says_only_noise_at_its_end_runs_into_its_time(
    crew: Crew,
) -> None:
    noise = "[" * 4000
    outcome = await crew.run("forges", report=noise, in_a_message=True, wall_s=0.5)
    assert (outcome.verdict, outcome.code) == (Verdict.ERROR, "timeout")
    await at_full_strength(crew)


@pytest.mark.parametrize("payload", [True, False])
async def test_nothing_that_a_worker_pickles_is_opened(
    crew: Crew, *, payload: bool
) -> None:
    outcome = await crew.run("pickles", payload=payload)
    assert (outcome.verdict, outcome.code) == (Verdict.LOST, "crashed")
    assert "pwned" not in {
        path.name for path in (crew.source.parent / "slots").iterdir()
    }
    await at_full_strength(crew)


async def test_a_flood_of_messages_keeps_the_server_awake_and_loses_no_derivative(
    crew: Crew,
) -> None:
    longest, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    outcome = await crew.run("floods", seconds=0.7)
    done.set()
    await watching
    assert outcome.verdict is Verdict.DONE
    assert [name for name, _ in crew.made] == ["late"]
    assert len(crew.percents) <= 1
    # a shared machine may pause us; a flooded loop would be far slower
    assert longest < 0.5


async def test_what_a_processor_leaves_behind_does_not_meet_the_next_file(
    crew: Crew,
) -> None:
    outcome = await crew.run("litters")
    # locked out of its own folder, the worker cannot write its report unless it is root
    assert outcome.verdict in (Verdict.DONE, Verdict.ERROR)
    await at_full_strength(crew)


async def test_two_hundred_runs_leak_nothing(crew: Crew) -> None:
    async def count() -> tuple[int, int]:
        processes = {info.pid for info in crew.pool.workers()}
        return open_fds(), len(processes)

    for how in ("abort", "exit"):
        await crew.run("dies", how=how)
    await asyncio.gather(*(crew.run("echo") for _ in range(20)))
    fds, workers = await count()
    for number in range(180):
        await crew.run("echo")
        if number % 18 == 0:
            await crew.run("dies", how="abort")
    await at_full_strength(crew)

    def is_settled() -> bool:
        return open_fds() <= fds + 2

    await until(is_settled, within_s=5)
    assert (await count())[1] == workers == 2
    nursery = crew.pool.fork_server_pid
    children = Path(f"/proc/{nursery}/task/{nursery}/children")
    await until(lambda: len(children.read_text().split()) == 2, within_s=2)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ASYNCFLOW_TOKEN", "a-secret")
    return "a-secret"


async def test_a_worker_knows_no_secret_and_is_set_apart(
    secret: str, crew: Crew
) -> None:
    facts = (await crew.run("surroundings")).facts
    await crew.run("dies", how="abort")  # a worker started now knows nothing either
    for _ in range(4):
        later = (await crew.run("surroundings")).facts
        assert secret not in str(later)
    environ = facts["environ"]
    assert isinstance(environ, dict)
    assert not {"HOME", "ASYNCFLOW_TOKEN", "ASYNCFLOW_SERVER_PID"} & environ.keys()
    assert environ["VIPS_CONCURRENCY"] == environ["OMP_THREAD_LIMIT"] == "1"
    assert environ["MALLOC_ARENA_MAX"] == environ["VIPS_BLOCK_UNTRUSTED"] == "1"
    assert os.environ["ASYNCFLOW_TOKEN"] == secret
    assert facts["group"] == facts["pid"]
    assert facts["nice"] == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 15)
    assert facts["term"] is facts["int"] is True
    assert facts["main"] is None or "pytest" not in str(facts["main"])
    assert facts["argv"] == ["asyncflow-worker"]
    assert facts["score"] == 800
    assert re.search(r"Max core file size +0 +0 ", str(facts["limits"]))
    assert re.search(r"Max open files +1024 +4096 ", str(facts["limits"]))


async def test_a_worker_loads_no_server_code(crew: Crew) -> None:
    modules = (await crew.run("surroundings")).facts["modules"]
    assert isinstance(modules, list)
    server = {"aiohttp", "asyncio", "sqlite3", "asyncflow.config", "asyncflow.store"}
    assert not server & set(modules)


@needs_landlock
async def test_a_worker_reaches_nothing_but_its_file_and_its_folder(
    crew: Crew, tmp_path: Path, port: int
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    outcome = await crew.run("peeks", secret=str(secret), port=port, server=os.getpid())
    assert outcome.facts == {"done": []}
    assert not (tmp_path / "new").exists()


@needs_filter
async def test_a_worker_has_no_network_and_looks_into_no_other_process(
    crew: Crew,
) -> None:
    outcome = await crew.run("calls", server=os.getpid())

    done, refused = outcome.facts["done"], outcome.facts["refused"]
    assert isinstance(done, list)
    assert isinstance(refused, list)
    assert set(done) == set(ALLOWED)
    assert len(refused) == 36 + (platform.machine() == "x86_64")


@needs_linux
async def test_nobody_can_find_the_socket_of_the_fork_server(crew: Crew) -> None:
    await crew.run("dies", how="abort")
    await crew.run("echo")  # it can still be reached by us
    nursery = crew.pool.fork_server_pid
    mine = {
        link.readlink().name[8:-1]
        for link in Path(f"/proc/{nursery}/fd").iterdir()
        if link.readlink().name.startswith("socket:")
    }
    listed = [
        line.split()
        for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]
    ]
    named = [line[7] for line in listed if line[6] in mine and len(line) > 7]
    assert mine
    assert [name for name in named if Path(name).exists()] == []
    assert [name for name in named if name.startswith("@")] == []


@needs_linux
async def test_a_worker_holds_no_pipe_to_a_process_without_walls(crew: Crew) -> None:
    helpers = {
        (link.readlink())
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if is_alive(int(child))
        for link in Path(f"/proc/{child}/fd").iterdir()
        if link.readlink().name.startswith(("pipe:", "socket:"))
    }

    files = (await crew.run("holds")).facts["files"]

    assert isinstance(files, list)
    assert helpers
    assert {str(one) for one in helpers} & set(files) == set()


@needs_filter
async def test_every_call_that_is_refused_is_refused(crew: Crew) -> None:
    said = dict((await crew.run("refusals")).facts)

    assert said.pop("clone3") == "ENOSYS"
    assert {"socket", "inotify_add_watch", "sethostname", "chroot"} < said.keys()
    assert set(said.values()) == {"EPERM"}, said


@needs_linux
async def test_a_worker_has_no_power_of_root_but_to_read_files(crew: Crew) -> None:
    status = str((await crew.run("surroundings")).facts["status"])

    for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        found = re.search(rf"{kind}:\s+([0-9a-f]+)", status)
        assert found is not None
        # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert int(found[1], 16) & ~0b110 == 0, kind
    assert re.search(r"NoNewPrivs:\s+1", status)


@needs_filter
async def test_modes_owners_and_times_stay_whatever_a_worker_does(
    crew: Crew, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    secret = folder / "secret"
    secret.touch(mode=0o600)
    before = [path.lstat() for path in (secret, folder)]

    outcome = await crew.run("pretends", secret=str(secret))

    assert outcome.verdict is Verdict.DONE, outcome.detail
    assert [path.lstat() for path in (secret, folder)] == before


async def test_a_new_file_can_be_touched(crew: Crew) -> None:
    outcome = await crew.run("touches")

    assert outcome.facts == {"new": True, "old": "text", "by a program": True}


@needs_landlock
async def test_a_large_file_is_linked_and_not_copied(crew: Crew) -> None:
    inode = crew.source.stat().st_ino
    started = asyncio.Event()
    run = asyncio.create_task(
        crew.run("spins", wall_s=0.5, on_progress=lambda _p: started.set())
    )
    await asyncio.wait_for(started.wait(), 10)
    (linked,) = (crew.source.parent / "slots").glob("*/in/source")
    assert linked.stat().st_ino == inode
    await run


def test_the_sandbox_text_says_what_an_old_kernel_lacks() -> None:
    assert "no Landlock" in sandbox.describe(0, filtered=False)
    assert "(no network)" in sandbox.describe(0, filtered=True)
    assert "TCP not forbidden" in sandbox.describe(1, filtered=False)
    assert "copied" in sandbox.describe(2, filtered=True)
    assert "no TCP" in sandbox.describe(7, filtered=False)
    assert "no network" in sandbox.describe(7, filtered=True)
