"""Threads know for which stream they work."""

from __future__ import annotations

import contextvars
import threading

import pytest

from deepio_adapters.threads import current_stream, stream_thread


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_works_for_the_stream_of_whoever_made_it(daemon):
    seen = []
    made = []

    def look():
        seen.append((current_stream.get(), threading.current_thread().name, threading.current_thread().daemon))
        current_stream.set("another")

    def make(name):
        current_stream.set(name)
        made.append(stream_thread(look, name="mine", daemon=daemon))

    for name in ("door", None):
        contextvars.Context().run(make, name)
    for thread in made:
        thread.start()
        thread.join()
    assert seen == [("door", "mine", daemon), (None, "mine", daemon)]
    assert current_stream.get() is None
