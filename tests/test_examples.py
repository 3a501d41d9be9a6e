"""Every example runs as it stands, as a process of its own, against a local core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepio_adapters.test_pattern import Pattern
from deepio_server.core import local_core
from tests.media import make_clip

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, folder: Path | None = None, **environment: str) -> str:
    """What an example prints; it must end well."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=folder,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["embed_asyncio.py", "embed_trio.py"])
def test_an_application_embeds_it(name: str) -> None:
    said = run(name)
    assert "the application is alive" in said
    assert "20 results" in said
    assert "objects seen" in said


def test_stream_capture_writes_what_it_is_told_to(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    make_clip(clip, frames=50)
    with local_core() as core:
        run(
            "stream_capture.py",
            folder=tmp_path,
            HP_SERVER="ws://127.0.0.1",
            SERVER_PORT=str(core.port),
            STREAM_CAPTURE_ID="cam",
            SOURCE_cam=str(clip),
        )
    lines = [json.loads(line) for line in (tmp_path / "messages.txt").read_text("utf-8").splitlines()]
    assert lines
    assert set(lines[0]) == {"vc_time", "last_frame_shape", "data"}


def test_the_detector_finds_the_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from deepio_server.detectors import load_detector

    detector = load_detector("my_detector:brightest")
    (spot,) = detector(Pattern(320, 240).draw(1))
    assert spot.class_name == "light"
    assert detector(Pattern(320, 240).draw(1) // 8) == []
