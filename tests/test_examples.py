"""Every example runs as its first lines say, against a local core."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepio_server.core import local_core
from tests.cli.processes import BOUND, deepio, environment
from tests.media import make_clip

pytestmark = pytest.mark.timeout(90)

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    return subprocess.run(
        command,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=BOUND,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize("name", ["embed_asyncio.py", "embed_trio.py"])
def test_embedding(name: str) -> None:
    done = run(name)
    assert (done.returncode, done.stderr) == (0, "")
    *own_work, _ = done.stdout.splitlines()
    assert any(line.startswith("connected: ") for line in own_work)  # both went on side by side
    assert "50 results." in done.stdout


def test_embedding_with_a_server() -> None:
    with local_core() as core:
        done = run("embed_trio.py", core.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert core.managers[0].metadata == {"place": "desk", "light": "on"}


def test_a_detector_of_ones_own() -> None:
    done = run("my_detector.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "thing red Box(" in done.stdout
    assert "frames_seen" in done.stdout


def test_a_detector_of_ones_own_from_the_shell() -> None:
    done = deepio("demo", "--seconds", "1.5", "--detector", "examples.my_detector:bright_spot", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"] > 0


def test_stream_capture_until_its_file_ends(tmp_path: Any) -> None:
    clip, output = make_clip(tmp_path / "clip.mp4", frames=40), tmp_path / "messages.txt"
    done = run("stream_capture.py", STREAM_CAPTURE_ID="gate", SOURCE_gate=f"{clip} ", OUTPUT_FILE=str(output))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) > 10
    assert all(set(line) == {"vc_time", "last_frame_shape", "objects"} for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stream_capture_until_it_is_told_to_end(tmp_path: Any, number: int) -> None:
    output = tmp_path / "messages.pipe"
    os.mkfifo(output)  # whoever reads it waits for a result
    with local_core() as core:
        manager = core.managers[0]
        env = environment(
            HP_SERVER=core.url.rpartition(":")[0],
            SERVER_PORT=str(core.port),
            OUTPUT_FILE=str(output),
            STREAM_METADATA='{"a": "string"}',
            SOURCE_camera="test:160x128@25",
        )
        with subprocess.Popen(
            [sys.executable, str(EXAMPLES / "stream_capture.py")], env=env, stderr=subprocess.PIPE, text=True
        ) as process:
            with output.open() as results:
                assert "objects" in json.loads(results.readline())
                assert (manager.camera.remote_id, manager.metadata) == ("camera", '{"a": "string"}')
                process.send_signal(number)
                assert process.wait(BOUND) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
