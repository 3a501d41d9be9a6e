"""The parts of the command that a whole run does not show well: how it fails, what it counts, what it shows."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from deepio_adapters.client import ClientStats
from deepio_cli import display
from deepio_cli.display import show, table
from deepio_cli.options import ServerOptions, SourceOptions, VideoFlags
from deepio_cli.running import EXIT_FAILED, EXIT_INTERRUPTED, run
from deepio_cli.settings import find_own_modules, find_source, read_metadata
from deepio_cli.tally import KEPT, Tally, milliseconds
from deepio_core.errors import DeepIOError
from deepio_core.media.options import VideoOptions
from deepio_core.messages import parse_message
from deepio_core.states import PeerState
from tests.engines import BOUND


async def fail(error: BaseException | None) -> int:
    if error is not None:
        raise error
    return 7


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 7, ""),
        (DeepIOError("It is so.", remedy="Do this."), EXIT_FAILED, "deepio: It is so. Do this.\n"),
        (ExceptionGroup("", [DeepIOError("It is so.")]), EXIT_FAILED, "deepio: It is so.\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, ""),
        (OSError(28, "No space left on device"), EXIT_FAILED, "deepio: [Errno 28] No space left on device\n"),
    ],
)
def test_how_it_ends(capsys: Any, error: BaseException | None, code: int, said: str) -> None:
    with pytest.raises(SystemExit) as end:
        run(fail, error)
    assert (end.value.code, capsys.readouterr().err) == (code, said)


def test_a_reader_that_has_gone_is_no_error(monkeypatch: Any) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    with pytest.raises(SystemExit) as end:
        run(fail, BrokenPipeError())
    assert end.value.code == EXIT_FAILED
    assert errors.closed  # not even the interpreter complains at its end


def test_a_bug_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(fail, ZeroDivisionError())


def data(vc_time: float | None, count: int = 1) -> Any:
    objects: list[Any] = [{"pid": str(number)} for number in range(count)]
    return parse_message({"type": "data", "rec_time": 1, "vc_time": vc_time, "objects": objects})


def test_what_is_counted() -> None:
    tally = Tally()
    assert (tally.median, tally.latency(0.95), milliseconds(tally.median)) == (None, None, "-")
    assert set(tally.summary().values()) == {0, None}
    for age in range(1, 101):
        tally.take(data(time.time() - age, count=age))
    tally.take(data(None))
    tally.take(parse_message({"type": "metadata", "metadata": 1}))
    assert (tally.results, tally.objects) == (101, 1)
    assert tally.median == pytest.approx(50.5, abs=0.5)
    assert tally.latency(0.95) == pytest.approx(96, abs=0.5)
    assert tally.latency(1.0) == pytest.approx(100, abs=0.5)


def test_of_many_the_newest_count() -> None:
    tally = Tally()
    tally.take(data(0))
    for _ in range(KEPT):
        tally.take(data(time.time()))
    assert (tally.latency(1.0) or 0) < BOUND


def stats(**fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "last_error": None,
        "state": PeerState.CONNECTED,
        "remote_id": "far",
        **dict.fromkeys(("video_mode", "video_reason", "codec", "encoder", "target_bitrate")),
    }
    return SimpleNamespace(
        **dict.fromkeys((field.name for field in dataclasses.fields(ClientStats)), 0) | defaults | fields
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "-"),
        ({"video_mode": "copy", "codec": "H264"}, "copied, H264"),
        ({"video_mode": "encode"}, "encoded"),
        (
            {"video_mode": "encode", "codec": "VP8", "encoder": "libvpx", "target_bitrate": 1_250_000},
            "encoded, VP8 by libvpx, 1.25 Mbit/s aimed at",
        ),
    ],
)
def test_how_video_is_sent_and_why(fields: dict[str, Any], said: str) -> None:
    rows = Tally().rows(stats(**fields))
    assert rows["video"] == said
    assert "because" not in rows
    assert Tally().rows(stats(**fields, video_reason="It is H.265."))["because"] == "It is H.265."
    tally = Tally()
    tally.stats = stats(**fields, video_reason="It is H.265.", loss=0.25)
    summary = tally.summary()
    assert (summary["video_mode"], summary["video_reason"]) == (fields.get("video_mode"), "It is H.265.")
    assert (summary["codec"], summary["loss"], summary["frames_copied"]) == (fields.get("codec"), 0.25, 0)


def test_options_of_video_become_settings() -> None:
    assert VideoFlags().options() == VideoOptions()
    flags = VideoFlags(
        video="encode", codec="VP8", bitrate="6.5M", max_size="640x360", max_fps=12.5, keyframe_interval=2.0,
        while_away="last",
    )  # fmt: skip
    assert flags.options() == VideoOptions(
        mode="encode", codec="VP8", bitrate=6_500_000, max_bitrate=6_500_000, max_size=(640, 360),
        max_frame_rate=12.5, keyframe_interval=2.0, while_away="last",
    )  # fmt: skip
    assert VideoFlags(bitrate="100k").options() == VideoOptions(bitrate=100_000, min_bitrate=100_000)
    assert VideoFlags(bitrate="900000").options() == VideoOptions(bitrate=900_000)
    assert VideoFlags(max_bitrate="500k").options() == VideoOptions(bitrate=500_000, max_bitrate=500_000)
    assert VideoFlags(bitrate="300k", max_bitrate="100k").options() == VideoOptions(
        bitrate=100_000, min_bitrate=100_000, max_bitrate=100_000
    )


def test_options_of_the_source_become_arguments() -> None:
    assert SourceOptions().arguments() == {
        "format": None,
        "loop": False,
        "source_options": None,
        "audio": False,
    }
    options = SourceOptions(format="v4l2", loop=True, source_option=["video_size=1x2", "a=b=c", "empty="], audio=True)
    assert options.arguments() == {
        "format": "v4l2",
        "loop": True,
        "source_options": {"video_size": "1x2", "a": "b=c", "empty": ""},
        "audio": True,
    }


def test_no_key_is_shown() -> None:
    assert "secret" not in repr(ServerOptions(key="secret"))


def test_metadata_is_json_or_text_or_the_source_without_its_password() -> None:
    assert read_metadata('{"a": 1}', "x") == {"a": 1}
    assert read_metadata("a gate", "x") == "a gate"
    assert read_metadata("", "x") == ""
    url = read_metadata(None, "rtsp://me:secret@camera/1")
    assert isinstance(url, dict)
    assert "camera/1" in str(url["url"])
    assert "secret" not in str(url)


def test_the_source_of_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("SOURCE_gate", " video.mp4 \n")
    assert find_source(None, "gate") == " video.mp4"
    assert find_source("mine", "gate") == "mine"
    assert find_source(None, "door") is None


def test_the_working_directory_comes_last(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/somewhere"])
    find_own_modules()
    find_own_modules()
    assert sys.path == ["/somewhere", os.getcwd()]


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: Any) -> None:
    monkeypatch.setattr(display, "LINE_EVERY", 0.0)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)

    async def work() -> None:
        asked: list[anyio.Event] = [anyio.Event(), anyio.Event()]

        def rows() -> dict[str, str]:
            next(event for event in [*asked, anyio.Event()] if not event.is_set()).set()
            return {"name": "value", "other": "[red]"}

        async with show("title", rows):
            with anyio.fail_after(BOUND):
                await asked[1].wait()  # the second time, so that the first line is out

    anyio.run(work)
    assert errors.getvalue().startswith("title: name value, other [red]\n")


def test_a_table_takes_text_as_it_is() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80)
    console.print(table("clip[b]1[/nothing].mp4", {"name": "[red]value[/red]", "other": "[/nothing]"}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "clip[b]1[/nothing].mp4" in shown
    assert "[red]value[/red]" in shown
    assert "[/nothing]" in shown
