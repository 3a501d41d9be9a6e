"""What an engine loads goes on while its source opens and its owner connects; what is asked meanwhile waits for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from deepio_adapters import engine_base
from deepio_adapters.engine import EngineConfig, IceServer, open_engine
from deepio_adapters.engine_base import EngineBase
from deepio_adapters.memory_engine import MemoryNetwork
from deepio_adapters.sources import Source, SourceError, SourceInfo, parse_source
from deepio_core.errors import LocalProtocolError
from deepio_core.inputs import EngineClosed, LocalOffer
from deepio_core.outputs import CloseEngine, StartEngine
from tests.engines import BOUND, connect, end, pattern

pytestmark = pytest.mark.anyio


class Loading:
    """What is loaded: it takes until it is told to go on, and fails then if there is a fault."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.fault: Exception | None = None

    def load(self) -> None:
        self.begun.set()
        self.go_on.wait(BOUND)
        if self.fault is not None:
            raise self.fault

    async def until_begun(self) -> None:
        assert await anyio.to_thread.run_sync(self.begun.wait, BOUND)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    loading = Loading()
    monkeypatch.setattr(EngineBase, "load", lambda _engine: loading.load())
    return loading


def start(number: int) -> StartEngine:
    return StartEngine(negotiation=number, remote_id="far", offerer=True)


async def test_what_is_asked_meanwhile_is_done_afterwards_in_order(loading: Loading) -> None:
    async with end(MemoryNetwork().open_engine) as one:
        await loading.until_begun()
        for effect in (start(1), CloseEngine(negotiation=1), start(2)):
            one.engine.perform(effect)
        assert not one.reports
        loading.go_on.set()
        await one.until(LocalOffer, 2)
        await one.until(EngineClosed, 1)
        assert not one.of(LocalOffer, 1)


async def test_two_that_wait_are_connected_in_the_end(loading: Loading) -> None:
    network = MemoryNetwork()
    async with (
        end(network.open_engine) as a,
        end(network.open_engine) as b,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(connect, a, b)
        await loading.until_begun()
        loading.go_on.set()


async def test_what_cannot_be_loaded_cancels_the_block_and_is_raised(loading: Loading) -> None:
    loading.fault = ImportError("no such library")
    with pytest.raises(ImportError, match="no such library"), anyio.fail_after(BOUND):
        async with end(MemoryNetwork().open_engine) as one:
            one.engine.perform(start(1))
            loading.go_on.set()
            await anyio.sleep_forever()


async def test_leaving_does_not_wait_for_what_loads(loading: Loading) -> None:
    with anyio.fail_after(BOUND / 2):
        async with end(MemoryNetwork().open_engine, EngineConfig(source=pattern())) as one:
            one.engine.perform(start(1))
            await loading.until_begun()
            threading.Timer(0.2, loading.go_on.set).start()
    assert not one.reports


async def test_a_source_that_opens_at_once_comes_first(loading: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_base, "LOAD_AFTER", BOUND)
    loading.go_on.set()
    begun: list[bool] = []

    class Prompt(_Wrapped):
        def open(self) -> SourceInfo:
            begun.append(loading.begun.is_set())
            return super().open()

    async with end(MemoryNetwork().open_engine, EngineConfig(source=Prompt)):
        await loading.until_begun()
    assert begun == [False]


async def test_beside_a_source_that_takes_its_time_it_loads(loading: Loading) -> None:
    loading.go_on.set()

    class Slow(_Wrapped):
        def open(self) -> SourceInfo:
            assert loading.begun.wait(BOUND)
            return super().open()

    async with end(MemoryNetwork().open_engine, EngineConfig(source=Slow)):
        pass


async def test_what_is_imported_already_is_prepared_beside_any_source(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_base, "LOAD_AFTER", BOUND)
    monkeypatch.setattr(EngineBase, "imported", True)
    loading.go_on.set()

    class Watching(_Wrapped):
        def open(self) -> SourceInfo:
            assert loading.begun.wait(BOUND / 2)
            return super().open()

    async with end(MemoryNetwork().open_engine, EngineConfig(source=Watching)):
        pass


async def test_with_a_source_that_is_not_there_nothing_is_loaded(
    loading: Loading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_base, "LOAD_AFTER", BOUND)
    config = EngineConfig(source=lambda: parse_source(tmp_path / "none.mp4"))
    with pytest.raises(SourceError):
        async with end(MemoryNetwork().open_engine, config):
            pass
    assert not loading.begun.is_set()


@pytest.mark.parametrize("url", ["stun", "http://host", "stun:", "stun:host:port", "turn:host?transport"])
async def test_a_malformed_ice_server_is_refused_before_anything_is_loaded(url: str) -> None:
    with pytest.raises(LocalProtocolError, match="no address of a STUN or TURN server"):
        async with end(open_engine, EngineConfig(ice_servers=(IceServer(urls=url),))):
            pass


def test_an_engine_can_be_made_before_aiortc_is_imported() -> None:
    code = """
import sys
from deepio_adapters.aiortc_engine import AiortcEngine
from deepio_adapters.engine import EngineConfig
from deepio_adapters.engine_room import EngineRoom
engine = AiortcEngine(EngineRoom(), EngineConfig(), print)
print({'aiortc', 'av', 'aioice'} & set(sys.modules), engine.imported)
engine.load()
print(engine.imported)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=BOUND * 3)
    assert done.stdout.splitlines() == ["set() False", "True"]


class _Wrapped(Source):
    """A test pattern behind a source of a test."""

    def __init__(self) -> None:
        super().__init__("wrapped")
        self._inner = parse_source("test:160x128@25")

    def open(self) -> SourceInfo:
        return self._inner.open()

    def frames(self):
        return self._inner.frames()

    def close(self, timeout: float = 2.0) -> bool:
        return self._inner.close(timeout)
