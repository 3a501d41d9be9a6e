"""Recording: every frame in the file, at its time, whatever sizes and connections it comes from."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deepio_adapters import recording
from deepio_adapters.frames import ReceivedFrame
from deepio_adapters.recording import Recorder, RecordingError
from deepio_adapters.test_pattern import Pattern, read_counter

BOUND = 10.0  # seconds after which a wait in these tests has failed


def frame(
    counter: int, *, at: float, pts: float | None = None, negotiation: int = 1, size: tuple[int, int] = (160, 128)
) -> ReceivedFrame:
    picture = av.VideoFrame.from_ndarray(Pattern(*size).draw(counter), format="bgr24").reformat(format="yuv420p")
    picture.pts = None if pts is None else round(pts * 90_000)
    picture.time_base = Fraction(1, 90_000)
    return ReceivedFrame(picture=picture, received_at=100 + at, negotiation=negotiation)


def record(path: Path, frames: list[ReceivedFrame]) -> list[tuple[int | None, float]]:
    recorder = Recorder(str(path))
    for one in frames:
        recorder.put(one)
    assert recorder.close(BOUND)
    assert recorder.dropped == 0
    with av.open(str(path)) as container:
        return [
            (read_counter(p.to_ndarray(format="bgr24")), round(float(p.time or 0), 2))
            for p in container.decode(video=0)
        ]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm", "out.avi"])
def test_every_frame_is_there(tmp_path: Path, name: str) -> None:
    seen = record(tmp_path / name, [frame(i, at=i / 10, pts=i / 10) for i in range(8)])
    assert [counter for counter, _ in seen] == list(range(8))


def test_times_are_the_sender_s_and_not_those_of_their_arrival(tmp_path: Path) -> None:
    frames = [frame(0, at=0, pts=5), frame(1, at=0.3, pts=5.1), frame(2, at=0.31, pts=5.2)]
    assert record(tmp_path / "out.mkv", frames) == [(0, 0), (1, 0.1), (2, 0.2)]


def test_without_times_those_of_the_arrival_are_taken(tmp_path: Path) -> None:
    assert record(tmp_path / "out.mkv", [frame(i, at=i / 4) for i in range(3)]) == [(0, 0), (1, 0.25), (2, 0.5)]


def test_the_next_connection_goes_on_after_the_pause(tmp_path: Path) -> None:
    frames = [
        frame(0, at=0, pts=0),
        frame(1, at=0.1, pts=0.1),
        frame(2, at=3, pts=0, negotiation=2),
        frame(3, at=3.1, pts=0.1, negotiation=2),
        frame(4, at=3.2, pts=77, negotiation=2),  # a sender that jumps
        frame(5, at=3.3, pts=77.1, negotiation=2),
    ]
    assert [time for _, time in record(tmp_path / "out.mkv", frames)] == [0, 0.1, 3, 3.1, 3.2, 3.3]


def test_times_never_go_back(tmp_path: Path) -> None:
    frames = [frame(0, at=0, pts=1), frame(1, at=0.1, pts=1), frame(2, at=0.2, pts=0.9)]
    assert len(record(tmp_path / "out.mp4", frames)) == 3


def test_another_size_is_scaled_to_the_first_and_odd_sizes_are_made_even(tmp_path: Path) -> None:
    frames = [frame(0, at=0, size=(161, 129)), frame(1, at=0.1, size=(320, 256)), frame(2, at=0.2)]
    assert [counter for counter, _ in record(tmp_path / "out.mp4", frames)] == [0, 1, 2]


def test_the_frame_itself_stays_as_it_is(tmp_path: Path) -> None:
    one = frame(7, at=0, pts=3)
    before = one.to_ndarray()
    record(tmp_path / "out.mp4", [one])
    assert one.pts == 3
    assert np.array_equal(one.to_ndarray(), before)


@pytest.mark.parametrize("path", ["nowhere/out.mp4", "out.nothing"])
def test_what_cannot_be_written_is_told_at_once(tmp_path: Path, path: str) -> None:
    with pytest.raises(RecordingError, match=r"cannot be recorded .*\. Give a file"):
        Recorder(str(tmp_path / path))


def test_nothing_received_leaves_no_thread(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "out.mp4"))
    assert recorder.close(BOUND)
    assert "deepio-recorder" not in {thread.name for thread in threading.enumerate()}


def test_a_slow_disk_drops_frames_and_stops_nobody(tmp_path: Path, monkeypatch, caplog) -> None:
    written, go = threading.Event(), threading.Event()

    def slow(self: Recorder, one: ReceivedFrame) -> None:
        written.set()
        assert go.wait(BOUND)
        raise OSError("no space left on device")

    monkeypatch.setattr(Recorder, "_write", slow)
    recorder = Recorder(str(tmp_path / "out.mp4"))
    one = frame(0, at=0)
    recorder.put(one)
    assert written.wait(BOUND)
    for _ in range(recording.WAITING_LIMIT + 3):
        recorder.put(one)
    assert recorder.dropped == 3
    assert not recorder.close(0.01)
    go.set()
    assert recorder.close(BOUND)
    assert recorder.dropped == 3 + 1 + recording.WAITING_LIMIT


def test_a_file_that_cannot_be_finished_is_logged(tmp_path: Path, caplog) -> None:
    recorder = Recorder(str(tmp_path / "out.mp4"))
    recorder._container.close()
    recorder._container = Broken()
    assert recorder.close(BOUND)
    assert "could not be finished" in caplog.text


class Broken:
    """A container on a disk that is full."""

    def close(self) -> None:
        raise OSError("no space left on device")
