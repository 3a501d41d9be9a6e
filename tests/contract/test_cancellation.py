"""Cancelled wherever it waits, a DeepIO leaves no task, thread, socket or file behind, at once."""

import asyncio
from typing import Any

import anyio
import pytest
import trio

from deepio_core.states import PeerState
from tests.engines import pattern
from tests.worlds import BOUND, CancelAt, far_side, nothing_left_soon

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

DATA: Any = {"type": "data", "rec_time": 1.5, "objects": []}


def tasks_of(backend):
    """The tasks of the running loop."""
    if backend == "asyncio":
        return set(asyncio.all_tasks())
    found, waiting = set(), [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        if task is not None:
            found.add(task)
            waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


async def whole_life(deep, far):
    """Everything an application does; every await of it is a place to be cancelled."""
    async with deep:
        await deep.wait_connected()
        await deep.send_metadata({"n": 1})
        await deep.send({"type": "hello"})
        messages, frames = deep.messages(), deep.frames()
        await far.until_connected_and_send(DATA)
        await anext(messages)
        await anext(frames)
        await deep.stop()
        await deep.wait_ended()


class Sends:
    """A far side that answers as soon as it can."""

    def __init__(self, far):
        self._far = far

    async def until_connected_and_send(self, data):
        await self._far.when(lambda: self._far.client.state is PeerState.CONNECTED)
        await self._far.client.send(data)


async def cancelled_at(at, deep, far):
    """Whether the life was over before it was cancelled."""
    life = whole_life(deep, Sends(far))
    with anyio.CancelScope() as scope:
        await CancelAt(life, at, scope)
        return True
    assert scope.cancelled_caught
    return False


@pytest.mark.parametrize("kind", ["memory", "real"])
async def test_cancelled_at_every_wait_it_leaves_nothing(kind, anyio_backend, deepio, request):
    from tests.worlds import RealWorld, World

    every = {"memory": 1, "real": 4}[kind]
    async with {"memory": World, "real": RealWorld}[kind]().running() as world:
        at, finished = 1, False
        while not finished:
            async with far_side(world, source=pattern(), receive_video=True) as far:
                deep = deepio(world, "test:160x128@25", remotePeerId=far.id, receive_video=True)
                await anyio.wait_all_tasks_blocked()  # the far side's tasks have begun
                living = tasks_of(anyio_backend)
                started = anyio.current_time()
                async with nothing_left_soon():
                    with anyio.fail_after(BOUND):
                        finished = await cancelled_at(at, deep, far)
                    assert tasks_of(anyio_backend) <= living
                    assert not deep.running
                assert anyio.current_time() - started < 4  # less than what is given to goodbyes that cannot be said
            at += every
        assert at > 10


async def test_the_goodbyes_are_said_when_a_scope_around_is_cancelled(memory, deepio):
    async with far_side(memory) as far:
        deep = deepio(memory, remotePeerId=far.id)
        started = anyio.current_time()
        with anyio.CancelScope() as scope:
            async with deep:
                await deep.wait_connected()
                await far.when(lambda: far.client.state is PeerState.CONNECTED)
                scope.cancel()
                await anyio.sleep(BOUND)
        assert memory.peers() == [far.id]
        await far.when(lambda: far.client.state is PeerState.LISTENING)
        assert anyio.current_time() - started < 3


async def test_a_handler_that_never_ends_does_not_hold_the_end_up(memory, deepio):
    async def hangs(_data):
        await anyio.sleep(3600)

    async with far_side(memory) as far:
        deep = deepio(memory, remotePeerId=far.id)
        deep.add_data_handler(hangs)
        with anyio.fail_after(BOUND):
            async with deep:
                await deep.wait_connected()
                await far.when(lambda: far.client.state is PeerState.CONNECTED)
                await far.client.send(DATA)
                await anext(deep.messages()) if deep.stats().messages_received == 0 else None


async def test_waits_can_be_given_up_and_taken_up_again(memory, deepio):
    deep = deepio(memory, receive_video=True)
    async with deep:
        messages, frames = deep.messages(), deep.frames()
        for wait in (deep.wait_connected, deep.wait_ended, messages.__anext__, frames.__anext__):
            with anyio.move_on_after(0) as scope:
                await wait()
            assert scope.cancelled_caught
        async with far_side(memory, calls=deep.id, source=pattern()) as far:
            with anyio.fail_after(BOUND):
                await deep.wait_connected()
                await far.when(lambda: far.client.state is PeerState.CONNECTED)
                await far.client.send(DATA)
                assert (await anext(messages)).raw == DATA
                assert (await anext(frames)).width == 160
