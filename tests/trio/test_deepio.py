"""What is trio's own about `deepio_trio.DeepIO`."""

import inspect
import threading

import anyio
import pytest
import trio
import trio.testing

import deepio_asyncio
from deepio_core.errors import LocalProtocolError
from deepio_core.states import PeerState
from deepio_trio import DeepIO
from tests.worlds import BOUND, Recorder, World, far_side, new_id, quick

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
def anyio_backend():
    return "trio"


@pytest.fixture
async def world():
    async with World().running() as world:
        yield world


def make(world, source=None, **arguments):
    deep = DeepIO(world.server, None, source, new_id("cam"), **arguments)
    deep.config = quick(deep.config, world)
    events = Recorder()
    deep.add_event_handler(events.take)
    return deep, events


def test_the_arguments_are_those_of_the_asyncio_face():
    assert inspect.signature(DeepIO) == inspect.signature(deepio_asyncio.DeepIO)


async def test_send_metadata_is_a_coroutine_with_a_checkpoint(world):
    deep, _ = make(world)
    with trio.CancelScope() as scope:
        scope.cancel()
        await deep.send_metadata("cancelled")
    assert scope.cancelled_caught
    assert deep.metadata is None
    with trio.testing.assert_checkpoints():
        await deep.send_metadata("sent")
    assert deep.metadata == "sent"


async def test_send_metadata_from_a_thread(world):
    async with far_side(world) as far:
        deep, _ = make(world, remotePeerId=far.id)
        async with deep:
            await deep.wait_connected()
            await trio.to_thread.run_sync(lambda: trio.from_thread.run(deep.send_metadata, "threaded"))
            await far.when(lambda: {"type": "metadata", "metadata": "threaded"} in far.raw())


async def test_every_await_is_a_checkpoint(world):
    async with far_side(world) as far:
        deep, _ = make(world, remotePeerId=far.id)
        async with deep:
            messages = deep.messages()
            for call in (
                deep.wait_connected,
                lambda: deep.send({"type": "x"}),
                lambda: deep.send_metadata(1),
                deep.stop,
                deep.wait_ended,
            ):
                with trio.fail_after(BOUND), trio.testing.assert_checkpoints():
                    await call()
            with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
                await anext(messages)


async def test_it_lives_in_a_nursery_that_is_cancelled(world):
    deep, events = make(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deep.start)
        await events.when(lambda: deep.state is PeerState.LISTENING)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert not deep.running
    assert world.peers() == []


async def test_an_error_of_a_sibling_comes_in_the_nurserys_group_alone(world):
    deep, events = make(world)

    async def fails():
        await events.when(lambda: deep.state is PeerState.LISTENING)
        raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deep.start)
            nursery.start_soon(fails)
    assert [str(e) for e in caught.value.exceptions] == ["mine"]


async def test_a_nursery_inside_the_block_keeps_its_group(world):
    deep, _ = make(world)

    async def fails():
        raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        async with deep, trio.open_nursery() as nursery:
            nursery.start_soon(fails)
    assert [str(e) for e in caught.value.exceptions] == ["mine"]


async def test_deadlines_around_and_inside(world):
    deep, _ = make(world)
    with trio.move_on_after(0.05) as scope:
        async with deep:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with deep:
        with trio.move_on_after(0.01) as scope:
            await deep.wait_connected()
        assert scope.cancelled_caught
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.01):
            await deep.wait_ended()
        assert deep.running


async def test_stop_from_a_sibling(world):
    deep, events = make(world)
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deep.start)
            await events.when(lambda: deep.state is PeerState.LISTENING)
            await deep.stop()


async def test_run_inside_trio_is_refused(world):
    deep, _ = make(world)
    with pytest.raises(LocalProtocolError, match="start"):
        deep.run()


def test_run_in_another_thread_needs_no_signals():
    outcome = []

    def work():
        deep = DeepIO("ws://192.0.2.1", 80, None, "cam")
        try:
            deep.run()
        except LocalProtocolError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(BOUND)
    assert "allow_plain" in outcome[0]


async def test_async_frames_are_made_in_this_trio(world):
    made = []

    async def frames():
        from deepio_adapters.test_pattern import Pattern

        while True:
            made.append(trio.lowlevel.current_task())
            await trio.sleep(0)
            yield Pattern(160, 128).draw(1)

    async with far_side(world, receive_video=True) as far:
        deep, _ = make(world, frames, remotePeerId=far.id)
        with anyio.fail_after(BOUND):
            async with deep:
                assert (await anext(far.client.frames())).width == 160
    assert made
