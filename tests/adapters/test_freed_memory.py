"""What was freed goes back to the system, when it is said that it should, and by whom that is said."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepio_adapters import av_source, encoding, freed_memory, picture_thread, source_pump
from deepio_adapters.encoding import EncodingThread
from deepio_adapters.freed_memory import give_back
from deepio_adapters.picture_thread import PictureThread
from deepio_adapters.slots import LatestSlot
from deepio_adapters.source_pump import SourcePump
from deepio_adapters.sources import SourceFrame, parse_source
from tests.media import BOUND, make_clip

# The last block stays, so that the allocator cannot give it back by itself.
FREE_AND_GIVE_BACK = """
from pathlib import Path
from deepio_adapters.freed_memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

blocks = [b"x" * 100_000 for _ in range(400)]
last = blocks[-1]
blocks.clear()
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's allocator")
def test_what_was_freed_goes_back_to_the_system() -> None:
    # In a process of its own, without what it may have been told about its allocator.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = subprocess.run(
        [sys.executable, "-c", FREE_AND_GIVE_BACK], env=environment, capture_output=True, text=True, check=True
    )
    assert int(told.stdout) * os.sysconf("SC_PAGESIZE") > 30_000_000


@pytest.fixture
def anew() -> Iterator[None]:
    """The allocator is looked for again, before and after."""
    freed_memory._find_trim.cache_clear()
    yield
    freed_memory._find_trim.cache_clear()


@pytest.mark.usefixtures("anew")
def test_with_other_allocators_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    give_back()
    assert freed_memory._find_trim() is None


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has given back."""
    given: list[str] = []
    for module in (av_source, encoding, picture_thread, source_pump):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "give_back", lambda name=name: given.append(name))
    return given


def test_it_is_given_back_after_each_opening_and_at_the_end_of_a_source(tmp_path: Path, given: list[str]) -> None:
    pump = SourcePump(parse_source(make_clip(tmp_path / "clip.mp4", size=(160, 120), frames=3)))
    pump.start()
    pump.opened.result(BOUND)
    list(pump.slot)
    assert pump.stop(BOUND)
    # Once to look at it, and once to play it.
    assert given == ["av_source", "av_source", "source_pump"]


def test_it_is_given_back_when_an_encoder_has_ended(given: list[str]) -> None:
    class Encoder:
        def close(self) -> None:
            given.append("closed")

    slot: LatestSlot[SourceFrame] = LatestSlot()
    make: Any = Encoder
    thread = EncodingThread(slot, make, lambda frame: None, lambda reason: None).start()
    slot.close()
    thread.close(BOUND)
    assert given == ["closed", "encoding"]


def test_it_is_given_back_when_decoding_has_ended(given: list[str]) -> None:
    thread = PictureThread([], lambda frame: None, lambda error: None)
    thread.start()
    thread.stop()
    assert thread.join(BOUND)
    assert given == ["picture_thread"]
