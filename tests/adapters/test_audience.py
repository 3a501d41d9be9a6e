"""Handlers and streams of one application: who gets what, what counts as missed, and the end."""

import anyio
import pytest

from deepio_adapters.audience import Audience
from deepio_adapters.streams import QUEUE_LIMIT, QueueStream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


class FailedError(Exception):
    """The session has failed."""


def audience():
    return Audience(QueueStream[int], lambda number: f"<{number}>")


def nothing():
    pass


def fails(_item=None):
    raise FailedError


async def test_handlers_get_what_is_converted_and_one_that_fails_hurts_no_other(caplog):
    people, got = audience(), []

    async def slow(item):
        await anyio.lowlevel.checkpoint()
        got.append(item)

    people.handlers += [fails, slow, got.append]
    people.put(1)
    people.put(2)
    people.close()
    await people.serve()
    assert got == ["<1>", "<1>", "<2>", "<2>"]
    assert "A handler has failed." in caplog.text


async def test_streams_get_all_from_when_they_were_made_until_the_end():
    people = audience()
    early = people.stream(nothing)
    people.put(1)
    late = people.stream(fails)
    people.put(2)
    assert len(people) == 3
    people.close()
    assert [item async for item in early] == [1, 2]
    with pytest.raises(FailedError):
        assert [item async for item in late] == [2]
    assert [item async for item in people.stream(nothing)] == []


async def test_what_nobody_was_to_handle_has_not_been_missed():
    people = audience()
    for number in range(QUEUE_LIMIT + 5):
        people.put(number)
    assert people.missed == 0
    people.handlers.append(nothing)
    assert people.missed == 5
    stream = people.stream(nothing)
    for number in range(QUEUE_LIMIT + 1):
        people.put(number)
    assert (stream.dropped, people.missed) == (1, 5 + QUEUE_LIMIT + 1 + 1)
