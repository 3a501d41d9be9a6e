"""What is asyncio's own about `deepio_asyncio.DeepIO`."""

import asyncio
import functools
import inspect
import threading

import anyio
import pytest

from deepio_asyncio import DeepIO
from deepio_core.errors import LocalProtocolError
from deepio_core.states import PeerState
from tests.worlds import BOUND, Recorder, World, far_side, new_id, nothing_left_soon, quick

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def world():
    async with World().running() as world:
        yield world


def make(world, source=None, **arguments):
    deep = DeepIO(world.server, None, source, new_id("cam"), **arguments)
    deep.config = quick(deep.config, world)
    return deep


def test_the_arguments_stand_where_the_documentation_has_them():
    parameters = inspect.signature(DeepIO).parameters
    documented = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert documented == [
        "server_address", "server_port", "source", "peer_id", "peer_type", "format", "metadata", "remotePeerId",
        "auto_connect",
    ]  # fmt: skip
    assert [parameters[name].default for name in documented[4:]] == ["stream_capture", None, None, None, False]
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name not in documented)


@pytest.mark.parametrize("port", [8000, "8000"])
def test_an_address_without_a_scheme_is_wss(port):
    address = DeepIO("example.org", port, None, "cam").config.address
    assert address.url == "wss://example.org:8000/stream_capture/cam"


async def test_send_metadata_returns_a_task(world):
    deep = make(world)
    task = deep.send_metadata({"n": 1})
    assert isinstance(task, asyncio.Task)
    assert await task is None
    async with far_side(world) as far:
        deep = make(world, remotePeerId=far.id)
        async with deep:
            await deep.wait_connected()
            task = deep.send_metadata({"n": 2})
            assert isinstance(task, asyncio.Task)
            await far.when(lambda: {"type": "metadata", "metadata": {"n": 2}} in far.raw())
            await task


async def test_send_metadata_from_other_threads_with_and_without_a_loop(world):
    async with far_side(world) as far:
        deep = make(world, remotePeerId=far.id)
        async with deep:
            await deep.wait_connected()
            main_loop = asyncio.get_running_loop()

            def plain():
                task = deep.send_metadata("plain")
                assert task.get_loop() is main_loop

            async def sends_and_awaits():
                await deep.send_metadata("looped")

            await anyio.to_thread.run_sync(plain)
            await far.when(lambda: {"type": "metadata", "metadata": "plain"} in far.raw())
            await anyio.to_thread.run_sync(asyncio.run, sends_and_awaits())
            await far.when(lambda: {"type": "metadata", "metadata": "looped"} in far.raw())
            assert deep.metadata == "looped"


async def test_send_metadata_from_a_thread_while_nothing_runs_is_remembered(world):
    deep = make(world)
    task = await anyio.to_thread.run_sync(deep.send_metadata, "early")
    assert task.done()
    assert deep.metadata == "early"
    async with deep, far_side(world, calls=deep.id) as far:
        await far.when(lambda: {"type": "metadata", "metadata": "early"} in far.raw())


async def test_send_metadata_from_many_threads_at_the_start_loses_none(world):
    """The newest wins whenever it comes: while the session is made, too."""
    async with far_side(world) as far:
        for round_number in range(10):
            deep = make(world, remotePeerId=far.id, metadata=[round_number, "old"])
            go = threading.Event()

            def send(deep=deep, go=go, number=round_number):
                go.wait(BOUND)
                deep._remember_metadata([number, "new"])

            thread = threading.Thread(target=send)
            thread.start()
            go.set()
            async with deep:
                await deep.wait_connected()
                await anyio.to_thread.run_sync(thread.join)
                expected = [round_number, "new"]
                await far.when(functools.partial(said_already, far, expected))
                assert said(far)[-1] == expected
            await far.when(lambda: far.client.state is PeerState.LISTENING)


def said_already(far, metadata):
    """Whether the metadata has come."""
    return metadata in said(far)


def said(far):
    """The metadata that came."""
    return [message["metadata"] for message in far.raw("metadata")]


async def test_a_blocked_loop_is_told_to_the_thread_that_waits(world, monkeypatch):
    import deepio_asyncio.deepio

    monkeypatch.setattr(deepio_asyncio.deepio, "_HANDOVER_TIMEOUT", 0.05)
    caught: list[TimeoutError] = []

    def send():
        try:
            deep.send_metadata("late")
        except TimeoutError as error:
            caught.append(error)

    deep = make(world)
    async with deep:
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()  # this is what blocks the loop
    assert caught
    assert deep.metadata == "late"


async def test_a_loop_that_has_just_ended_is_as_none(world):
    deep = make(world)
    gone = asyncio.new_event_loop()
    gone.close()
    deep._loop = gone
    task = await anyio.to_thread.run_sync(deep.send_metadata, 1)
    assert task.done()


async def test_it_lives_in_a_task_group(world):
    deep = make(world)
    events = Recorder()
    deep.add_event_handler(events.take)
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(deep.start())
        await events.when(lambda: deep.state is PeerState.LISTENING)
        starting.cancel()
    assert starting.cancelled()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deep.start())
            await events.when(lambda: deep.state is PeerState.LISTENING)
            raise ValueError("mine")
    assert [str(e) for e in caught.value.exceptions] == ["mine"]
    assert not deep.running


async def test_wait_for_gives_up_in_time(world):
    deep = make(world)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(deep.start(), 0.05)
    assert not deep.running


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 20, 35, 60, 100])
async def test_cancelled_as_a_task_it_leaves_nothing(world, steps):
    """`Task.cancel` is not a cancel scope: it comes once, and through shields."""
    async with far_side(world) as far:
        await anyio.wait_all_tasks_blocked()
        deep = make(world, "test:160x128@25", remotePeerId=far.id)
        living = asyncio.all_tasks()
        async with nothing_left_soon():
            task = asyncio.create_task(deep.start())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert asyncio.all_tasks() <= living


async def test_run_refuses_to_run_twice_in_one_thread(world):
    with pytest.raises(LocalProtocolError, match="Await start"):
        make(world).run()
