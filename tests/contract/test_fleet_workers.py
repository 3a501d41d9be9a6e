"""A fleet whose streams run in worker processes, some of which are killed.

What crosses the pipes is the same on both loops, so that the long run, with a real core and video, is on one of them.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from deepio_adapters import fleet_process
from deepio_adapters.fleet import (
    Fleet,
    FleetError,
    StreamEnded,
    StreamLost,
    StreamPhase,
    StreamRetrying,
    StreamStarted,
)
from deepio_adapters.fleet_process import WorkerProcess
from deepio_adapters.sources import SourceError
from deepio_core.errors import LocalProtocolError
from deepio_core.media.options import VideoOptions
from deepio_core.states import PeerState
from deepio_server.core import CoreConfig, local_core
from tests.contract.test_fleet import Told
from tests.worlds import BOUND, nothing_left_soon

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

KEY = "a-key-for-nobody-else"


@pytest.fixture
def core():
    with local_core(
        CoreConfig(managers=4, check_key=lambda kind, _id, key: kind != "stream_capture" or key == KEY)
    ) as core:
        yield core


def gone(pid):
    """Whether there is no such process, or nothing but its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def shows_key(pid):
    """Whether arguments or environment of a process hold the key."""
    return any(KEY in Path(f"/proc/{pid}/{what}").read_text() for what in ("cmdline", "environ"))


async def until_gone(*pids):
    with anyio.fail_after(BOUND):
        while not all(map(gone, pids)):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_streams_are_spread_over_processes_of_which_one_is_killed(core, caplog):
    caplog.set_level(logging.INFO)
    async with nothing_left_soon():
        async with Fleet(2, restart_delay=0.05) as fleet:
            told = Told(fleet)
            messages, results = fleet.messages(), fleet.results()
            names = [f"cam{number}" for number in range(4)]

            async def add(number):
                await fleet.add(
                    names[number],
                    server_address=core.url,
                    source="test:160x128@10",
                    key=KEY,
                    remotePeerId=f"stream_manager{number + 1 if number else ''}",
                    video=VideoOptions(max_size=(160, 128)),
                    metadata={"n": number},
                )

            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(add, number)
            await told.connected(*names)
            pids = pids_of(fleet)
            placed = {name: status.process for name, status in fleet.streams.items()}
            assert sorted(map(str, placed.values())) == ["0", "0", "1", "1"]
            await results_of(messages, set(names))
            # Secrets are where nobody else of this machine can read them.
            assert not any(map(shows_key, pids))

            await refusals(fleet, core)
            await fleet.send_metadata("cam0", {"n": "new"})

            told.events.clear()
            phases = phases_when_lost(fleet)
            os.kill(pids[0], signal.SIGKILL)
            lost = [name for name in names if placed[name] == 0]
            for name in lost:
                event = await told.until(name, StreamLost)
                assert "signal 9" in event.reason
                await told.until(name, StreamStarted, restarts=1)
            assert phases == dict.fromkeys(lost, StreamPhase.WAITING)
            await told.connected(*lost)
            await results_of(messages, set(lost))
            await frames_of(results, set(lost))
            for name in names:
                status = fleet.streams[name]
                assert (status.state, status.phase) == (PeerState.CONNECTED, StreamPhase.RUNNING)
                assert (status.restarts, status.process) == (name in lost, placed[name])
                if name not in lost:
                    assert told.of(name, object) == []
            assert [process.restarts for process in fleet.stats().processes] == [1, 0]
            await fleet.remove("cam1")
            assert "cam1" not in fleet.streams
            pids = pids_of(fleet)
        assert {event.name for event in told.events if isinstance(event, StreamEnded)} == set(names)
        await until_gone(*pids)
    text = caplog.text
    assert "is lost: it was ended by signal 9" in text
    assert KEY not in text
    for name in names:
        assert f", {name}: The video of test:160x128@10 is encoded" in text, "what the engine room logs has its stream"


def pids_of(fleet):
    return [process.pid for process in fleet.stats().processes]


def phases_when_lost(fleet):
    """The phases of streams at the moment when they are told as lost."""
    phases = {}

    def note(event):
        if isinstance(event, StreamLost):
            phases[event.name] = fleet.streams[event.name].phase

    fleet.add_event_handler(note)
    return phases


async def results_of(messages, names):
    with anyio.fail_after(BOUND):
        while names:
            name, message = await anext(messages)
            if message.raw.get("type") == "data":
                names.discard(name)


async def frames_of(results, names):
    """Wait for results of these streams for which it is known when their frame was taken."""
    with anyio.fail_after(BOUND):
        while names:
            name, result = await anext(results)
            if result.captured_at is not None and result.captured_at > time.monotonic() - 1:
                names.discard(name)


async def refusals(fleet, core):
    """What cannot be started is said with the same errors as without processes, and leaves nothing."""
    before = dict(fleet.streams)
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"source": "/nowhere.mp4"}, SourceError, "no file /nowhere.mp4"),
        ({"source": lambda: iter(())}, LocalProtocolError, r"made by the application.*processes=0"),
        ({"source": None, "ssl_context": object()}, LocalProtocolError, r"ssl_context.*tls_ca"),
        ({"source": None, "video": "both"}, LocalProtocolError, "video mode"),
        ({"source": None, "process": 2}, LocalProtocolError, r"process 2.*0 to 1"),
    ]
    for arguments, error, said in cases:
        with pytest.raises(error, match=said):
            await fleet.add("new", server_address=core.url, **arguments)
    with pytest.raises(LocalProtocolError, match="JSON"):
        await fleet.send_metadata("cam0", {1: 2})
    with pytest.raises(LocalProtocolError, match="bytes"):
        await fleet.send_metadata("cam0", "x" * 1_000_000)
    assert fleet.streams.keys() == before.keys()


@pytest.fixture
def python(monkeypatch, tmp_path):
    """Has workers run as shell script."""

    def make(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo $KEY it is broken >&2; exit 3", "ended with code 3"),
        ("echo nonsense; cat", "cannot be understood"),
        ("""echo '{"kind": "event", "type": "Nonsense"}'; cat""", "cannot be understood"),
        ("exec cat", "cannot be understood"),
        ("head -c 17000000 /dev/zero; cat", "cannot be understood"),
    ],
)
async def test_a_worker_that_does_not_come_up_is_an_error(python, caplog, script, said):
    python(script)
    async with nothing_left_soon():
        with pytest.raises(FleetError, match=f"not come up: .*{said}.*logged"):
            async with Fleet(1):
                pytest.fail("it has come up")
    if "broken" in script:
        assert "worker 0: it is broken" in caplog.text


async def test_an_application_that_blocks_loses_no_worker_and_one_that_does_not_end_is_killed(
    python, monkeypatch, caplog
):
    python("""while echo '{"kind": "status"}'; do sleep 0.05; done""")
    monkeypatch.setattr(fleet_process, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(fleet_process, "SILENCE", 0.6)
    monkeypatch.setattr(fleet_process, "LEAVE_TIMEOUT", 0.1)
    heard: list[Any] = []
    process = WorkerProcess(7, heard.append)
    with anyio.fail_after(BOUND):
        async with nothing_left_soon(), anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            for _ in range(2):
                heard.clear()
                while not heard:  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.01)
                assert process.pid is not None
                assert "killed" not in caplog.text
                time.sleep(0.8)  # noqa: ASYNC251 - the application blocks
            tasks.cancel_scope.cancel()
    assert process.pid is None
    assert "process 7 is killed: it did not end" in caplog.text


async def test_a_python_that_cannot_be_run_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FleetError, match=r"cannot be started.*processes=0"):
        async with Fleet(2):
            pytest.fail("it has come up")


async def test_what_is_asked_of_a_silent_and_then_lost_worker_is_an_error_or_done_later(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(fleet_process, "LOOK_INTERVAL", 0.05)
    nobody: dict[str, Any] = {"server_address": "ws://127.0.0.1:9", "source": None}
    async with Fleet(1, restart_delay=0.4) as fleet:
        told = Told(fleet)
        with anyio.move_on_after(0):
            await fleet.add("given up", **nobody)
        assert fleet.streams == {}
        await fleet.add("one", **nobody)
        await fleet.add("two", **nobody)
        await told.until("one", StreamRetrying)

        monkeypatch.setattr(fleet_process, "SILENCE", 0.3)
        (stopped,) = pids_of(fleet)
        os.kill(stopped, signal.SIGSTOP)
        with anyio.fail_after(BOUND), pytest.raises(FleetError, match=r"lost meanwhile.*silent.*Try again"):
            await fleet.add("three", **nobody)
        monkeypatch.setattr(fleet_process, "SILENCE", 30.0)  # the next one may take its time to come up
        assert "silent" in (await told.until("one", StreamLost)).reason
        assert gone(stopped)

        assert list(fleet.streams) == ["one", "two"]
        assert fleet.stats().processes[0].pid is None
        await fleet.remove("two")  # there is nobody to do it now
        await told.until("two", StreamEnded)
        await fleet.send_metadata("one", 1)  # remembered
        with anyio.move_on_after(0.01) as scope:
            await fleet.add("three", **nobody)
        assert scope.cancelled_caught
        await fleet.add("three", **nobody)
        await told.until("one", StreamStarted, restarts=1)
        assert list(fleet.streams) == ["one", "three"]
        assert len(told.of("two", StreamStarted)) == 1
    assert "worker 0, one: Trying again" in caplog.text


PROGRAM = """
import anyio
from deepio_adapters.fleet import Fleet

async def main():
    async with Fleet(1) as fleet:
        await fleet.add("one", server_address="ws://127.0.0.1:9", source="test:")
        print(fleet.stats().processes[0].pid, flush=True)
        await anyio.sleep(60)

anyio.run(main)
"""


def test_workers_end_when_the_process_of_the_fleet_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        program.kill()
        anyio.run(until_gone, program.pid, pid)
