"""What a worker does with a fleet that reads slowly, or not at all."""

import json
import os
import threading

import pytest

from deepio_adapters.fleet_queue import LIMIT
from deepio_adapters.fleet_records import StreamStarted
from deepio_adapters.fleet_worker import Outbox
from deepio_core.messages import parse_message
from tests.engines import BOUND

LARGE = "x" * 1_000_000
"""More than a pipe holds."""


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    outbox = Outbox(writing)
    thread = threading.Thread(target=outbox.run, daemon=True)
    thread.start()
    with os.fdopen(reading, "rb") as reader:
        yield outbox, reader
    outbox.reply({})  # nobody reads: it ends
    thread.join(BOUND)
    assert not thread.is_alive()
    assert outbox.broken
    os.close(writing)


def test_while_nobody_reads_messages_and_events_are_dropped_but_no_reply(pipe):
    outbox, reader = pipe
    outbox.reply({"kind": "reply", "id": 0, "fill": LARGE})
    assert json.loads(reader.readline())["id"] == 0
    outbox.reply({"kind": "reply", "id": 1, "fill": LARGE})
    while reader.peek(1)[:1] != b"{":
        pass  # the thread has begun to write, and is stuck now
    for number in range(LIMIT + 5):
        outbox.message("loud", parse_message(number))
        outbox.event(StreamStarted(name="loud", restarts=number))
        outbox.reply({"kind": "reply", "id": 2 + number})
        outbox.status({"kind": "status", "number": number})
    outbox.message("quiet", parse_message("still there"))
    assert outbox.dropped == (5, 5)
    assert not outbox.flush(0)

    lines = [json.loads(reader.readline()) for _ in range(1 + LIMIT + (LIMIT + 5) + 1 + LIMIT + 1)]
    assert outbox.flush(BOUND)
    assert [line["id"] for line in lines if line["kind"] == "reply"] == list(range(1, LIMIT + 7))
    assert [line["number"] for line in lines if line["kind"] == "status"] == [LIMIT + 4]  # the newest alone
    assert [line["fields"]["restarts"] for line in lines if line["kind"] == "event"] == list(range(5, LIMIT + 5))
    messages = [(line["name"], line["raw"]) for line in lines if line["kind"] == "message"]
    assert messages[:2] == [("loud", 5), ("quiet", "still there")]
    assert len(messages) == LIMIT + 1
    kinds = [line["kind"] for line in lines[1:]]
    # A status is older than the events beside it, and a reply newer.
    assert [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before] == [
        "status", "event", "reply", "message"
    ]  # fmt: skip
