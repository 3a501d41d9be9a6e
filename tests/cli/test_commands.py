"""The `deepio` command in processes of its own: what it prints, writes and returns, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest

from deepio_cli.__main__ import main
from deepio_server.core import Core, CoreConfig, local_core
from tests.cli.processes import BOUND, deepio, environment, running
from tests.media import make_clip

pytestmark = pytest.mark.timeout(90)

PATTERN = "test:160x128@25"


@pytest.fixture(scope="module")
def core() -> Any:
    """One core for all tests; none of them leaves a peer."""
    with local_core(CoreConfig(detector="tests.detecting:counter")) as one:
        yield one


@pytest.fixture
def inside(monkeypatch: Any, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process, which is quicker: gives exit code, stdout and stderr."""
    for name in ("HP_SERVER", "SERVER_PORT", "STREAM_CAPTURE_ID", "AUTO_CONNECT", "OUTPUT_FILE", "DEEPIO_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepio", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return cast("int", end.value.code), said.out, said.err

    return run


def one_clear_line(text: str) -> bool:
    return text.startswith("deepio: ") and text.count("\n") == 1 and "Traceback" not in text


# --- Lightness and options ------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom deepio_cli.__main__ import main\nsys.argv = ['deepio', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print('modules', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=BOUND, check=True
    )
    *help_text, modules = done.stdout.splitlines()
    assert all(any(f"  {name}" in line for line in help_text) for name in ("demo", "stream", "serve", "peers", "watch"))
    heavy = {"aiortc", "anyio", "asyncio", "av", "cv2", "numpy", "starlette", "trio", "uvicorn", "websockets"}
    assert not heavy & set(modules.split())


@pytest.mark.parametrize("name", ["demo", "stream", "serve", "peers", "watch"])
def test_each_command_has_its_help(inside: Any, name: str) -> None:
    code, said, errors = inside(name, "-h")
    assert (code, errors) == (0, "")
    assert f"{name} [OPTIONS]" in said
    assert "--json" in said


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["stream", "--nothing"],
        ["serve", "--port", "99999"],
        ["serve", "--port", "x"],
        ["serve", "--tls-cert", "/none.pem"],
        ["demo", "--seconds", "0"],
        ["watch"],
        ["stream", PATTERN, "--video", "both"],
        ["stream", PATTERN, "--codec", "h265"],
        ["stream", PATTERN, "--bitrate", "fast"],
        ["stream", PATTERN, "--bitrate", "1k"],
        ["stream", PATTERN, "--max-size", "1280"],
        ["stream", PATTERN, "--max-size", "1x1"],
        ["stream", PATTERN, "--max-fps", "0"],
        ["stream", PATTERN, "--keyframe-interval", "0"],
        ["stream", PATTERN, "--while-away", "music"],
        ["stream", PATTERN, "-o", "rtsp_transport"],
        ["stream", PATTERN, "-o", "=udp"],
        ["--log-level", "info"],
        ["--log-level", "loud", "demo"],
    ],
)
def test_wrong_options_are_2(inside: Any, arguments: list[str]) -> None:
    code, said, errors = inside(*arguments)
    assert code == 2
    assert "Usage" in said + errors


def test_options_are_shown_in_panels(inside: Any) -> None:
    _, said, _ = inside("stream", "--help")
    titles = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments:", "Options:", "Server:", "Source:", "Video:"]
    assert "--tls-ca" in said.partition("Server:")[2].partition("Source:")[0]
    assert "rtsp_transport=udp" in said.partition("Source:")[2].partition("Video:")[0]
    assert "--while-away <last|nothing>" in said.partition("Video:")[2]


def test_version(inside: Any) -> None:
    code, said, _ = inside("--version")
    assert (code, said.split()[0]) == (0, "deep-io-py")


# --- demo -----------------------------------------------------------------------------------------------------------


def test_demo_for_programs() -> None:
    done = deepio("demo", PATTERN, "--seconds", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert 10 < summary["results"] <= summary["frames_received"] <= summary["frames_sent"] < 120
    assert 0 < summary["latency_median"] <= summary["latency_p95"] < 2
    assert (summary["reconnects"], summary["last_error"]) == (0, None)
    assert summary["bytes_sent"] > 1000


def test_demo_for_people_with_a_file(tmp_path: Any) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=40)
    done = deepio("demo", str(clip), "--seconds", "20")
    assert (done.returncode, done.stderr) == (0, "")  # it ended with the file, before its time
    for name in ("frames sent", "frames received by the core", "results", "latency, median", "p95", "reconnects"):
        assert name in done.stdout
    assert "last error" not in done.stdout


def test_demo_without_results_fails(inside: Any) -> None:
    code, said, _ = inside("demo", PATTERN, "--seconds", "1", "--detector", "operator:truediv")
    assert code == 1
    assert "no result came in time" in said


def test_a_source_that_does_not_exist_fails_in_one_line() -> None:
    done = deepio("demo", "/none.mp4")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "deepio: There is no file /none.mp4. Check the path.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--detector", "none:x"], "none:x"),
        (["demo", "test:1x1"], "1x1"),
        (["stream", "/none.mp4"], "/none.mp4"),
        (["stream", PATTERN, "--server", "ws://192.0.2.1"], "ws://"),
        (["stream", PATTERN, "--server", "ftp://x"], "wss://"),
        (["stream", PATTERN, "--output", "/none/at/all"], "/none/at/all"),
        (["stream"], "SOURCE_camera"),
        (["stream", PATTERN, "-o", "a=b"], "test pattern"),
        (["watch", "x"], "--server"),
        (["peers"], "--server"),
        (["peers", "--server", "ws://127.0.0.1:1"], "127.0.0.1:1"),
        (["serve", "--host", "192.0.2.1"], "192.0.2.1"),
        (["serve", "--tls-key", __file__], "certificate"),
        (["serve", "--tls-cert", __file__, "--tls-key", __file__], "certificate"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(inside: Any, arguments: list[str], said: str) -> None:
    code, out, errors = inside(*arguments)
    assert (code, out) == (1, "")
    assert one_clear_line(errors), errors
    assert said in errors


# --- stream ---------------------------------------------------------------------------------------------------------


def test_stream_to_a_server_with_results_in_a_file(core: Core, tmp_path: Any) -> None:
    clip, output = make_clip(tmp_path / "clip.mp4", frames=40), tmp_path / "results.jsonl"
    done = deepio("stream", str(clip), "--server", core.url, "--auto", "--id", "cam-file", "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    assert "frames sent" in done.stdout
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(results) > 20
    assert all(result["type"] == "data" for result in results)
    counters = [int(one["pid"]) for result in results for one in result["objects"]]
    assert counters == sorted(set(counters))
    assert len(counters) > 20


def test_results_are_appended_to_what_is_there(inside: Any, core: Core, tmp_path: Any) -> None:
    output = tmp_path / "results.jsonl"
    output.write_text('{"before": true}\n')
    code, _, errors = inside(
        "stream", PATTERN, "--server", core.url, "--auto", "--seconds", "1", "--output", str(output)
    )
    assert (code, errors) == (0, "")
    first, *others = output.read_text().splitlines()
    assert first == '{"before": true}'
    assert others


def test_stream_for_programs_with_a_core_of_its_own() -> None:
    done = deepio("stream", PATTERN, "--seconds", "2", "--json", "--metadata", '{"place": "door"}')
    assert (done.returncode, done.stderr) == (0, "")
    *messages, ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert {message["event"] for message in messages} == {"message"}
    assert {message["message"]["type"] for message in messages} == {"data"}
    assert ended["event"] == "ended"
    assert ended["results"] == len(messages) > 5
    assert {"video_mode", "video_reason", "codec", "encoder", "target_bitrate", "packets_resent"} <= ended.keys()


def test_stream_obeys_the_environment_of_the_original(core: Core, tmp_path: Any) -> None:
    output = tmp_path / "messages.txt"
    host, _, port = core.url.removeprefix("ws://").rpartition(":")
    with running(
        "stream",
        "--json",
        env={
            "HP_SERVER": f"ws://{host}",
            "SERVER_PORT": port,
            "STREAM_CAPTURE_ID": "gate \n",
            "SOURCE_gate": f"{PATTERN}  ",
            "STREAM_METADATA": "a text that is no JSON",
            "AUTO_CONNECT": "True",
            "OUTPUT_FILE": str(output),
        },
    ) as one:
        assert one.json()["message"]["type"] == "data"
        manager = core.managers[0]
        assert manager.camera.remote_id == "gate"
        assert manager.metadata == "a text that is no JSON"
        code, _, errors = one.end()
    assert (code, errors) == (0, "")
    assert json.loads(output.read_text().splitlines()[0])["type"] == "data"


def test_stream_that_listens_is_called(inside: Any, core: Core) -> None:
    """AUTO_CONNECT=0 means no, and the command line wins over the environment."""
    listening = {"AUTO_CONNECT": "0", "STREAM_CAPTURE_ID": "called"}
    calling = {"AUTO_CONNECT": "1"}
    with running("stream", PATTERN, "--server", core.url, "--json", env=listening) as one:
        with running(
            "stream", PATTERN, "--server", core.url, "--id", "caller", "--connect", "called", "--json", env=calling
        ) as caller:
            # Two cameras that greet each other: the listener is told about the caller's source.
            kinds = {one.json()["message"]["type"] for _ in range(2)}
            assert kinds == {"source", "metadata"}
            assert caller.end()[0] == 0
        # It is there, and sends no results.
        assert inside("watch", "called", "--server", core.url, "--json", "--seconds", "1")[0] == 1
        assert one.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stream_ends_cleanly_by_a_signal(core: Core, number: int) -> None:
    with running("stream", PATTERN, "--server", core.url, "--auto", "--id", "ends", "--json") as one:
        one.line()
        code, rest, errors = one.end(number)
    assert (code, errors) == (0, "")
    assert json.loads(rest.splitlines()[-1])["event"] == "ended"
    assert core.managers[0].camera.remote_id != "ends"  # it has said goodbye


def test_stream_ends_cleanly_while_nothing_is_there_yet(core: Core) -> None:
    with running("--log-level", "info", "stream", PATTERN, "--server", core.url, "--connect", "nobody") as one:
        assert one.process.stderr is not None
        while "Trying again" not in one.process.stderr.readline():
            pass
        code, _, errors = one.end()
    assert code == 0
    assert "Traceback" not in errors


def test_stream_ends_when_nobody_reads_its_lines(core: Core) -> None:
    with running("stream", PATTERN, "--server", core.url, "--auto", "--id", "unread", "--json") as one:
        one.line()
        assert one.process.stdout is not None
        # As `deepio stream --json | head -1` does; the reader of this test holds the same file.
        os.dup2(os.open(os.devnull, os.O_RDONLY), one.process.stdout.fileno())
        code = one.process.wait(BOUND)
        assert one.process.stderr is not None
        assert "Traceback" not in one.process.stderr.read()
    assert code in {0, 1}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_disk_is_said(inside: Any) -> None:
    code, _, errors = inside("stream", PATTERN, "--output", "/dev/full", "--seconds", "20")
    assert code == 1
    assert one_clear_line(errors)
    assert "No space left" in errors


def test_without_its_libraries_it_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "deepio_cli.app", None)
    with pytest.raises(ModuleNotFoundError):
        main()  # not one of its libraries: that is a broken installation, to be seen as it is
    monkeypatch.delitem(sys.modules, "deepio_cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match="pip install"):
        main()


# --- serve, peers, watch --------------------------------------------------------------------------------------------


def test_serve_peers_stream_and_watch(inside: Any) -> None:
    with running("serve", "--port", "0", "--managers", "2", "--json", "--key", "s3cret") as server:
        told = server.json()
        assert (told["event"], told["managers"]) == ("listening", 2)
        known = ("--server", told["url"], "--key", "s3cret")
        for command in (("peers",), ("stream", PATTERN, "--auto"), ("watch", "stream_manager_output")):
            code, out, errors = inside(*command, "--server", told["url"], "--key", "wr0ng")
            assert code == 1
            assert one_clear_line(errors)
            assert "wr0ng" not in out + errors

        listed = {peer["id"]: peer for peer in json.loads(inside("peers", *known, "--json")[1])}
        assert set(listed) == {f"stream_manager{n}{end}" for n in ("", "2") for end in ("", "_output")}
        assert listed["stream_manager"] == {"id": "stream_manager", "type": "stream_manager", "busy": False}
        code, out, errors = inside("peers", *known)
        assert (code, errors) == (0, "")
        assert "stream_manager2_output" in out
        assert "s3cret" not in out

        with running("stream", PATTERN, *known, "--connect", "stream_manager2", "--json") as camera:
            camera.line()
            watch = ("watch", "stream_manager2_output", *known)
            with running(*watch, "--json") as watching:
                results = [watching.json() for _ in range(5)]
                assert all(result["type"] == "data" for result in results)
                assert watching.end(signal.SIGINT)[0] == 0
            code, out, errors = inside(*watch, "--seconds", "1")
            assert (code, errors) == (0, "")
            assert out.endswith(" results.\n")
            assert camera.end()[0] == 0
        assert server.end(signal.SIGTERM) == (0, "", "")


def test_serve_for_people_ends_with_a_camera_connected() -> None:
    with running("serve", "--port", "0") as server:
        url = server.line().split()[6].rstrip(".")
        with running("stream", PATTERN, "--server", url, "--auto", "--json") as camera:
            camera.line()
            code, rest, errors = server.end(signal.SIGINT)
            assert (code, rest) == (0, "")
            assert "Stream to it: deepio stream" in errors
            assert "Traceback" not in errors
            assert camera.end()[0] == 0


def test_serve_says_that_its_port_is_taken(inside: Any, core: Core) -> None:
    code, _, errors = inside("serve", "--port", str(core.port))
    assert code == 1
    assert one_clear_line(errors)
    assert "in use" in errors


# --- On a terminal --------------------------------------------------------------------------------------------------


def test_a_live_table_is_drawn_on_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "deepio_cli", "demo", PATTERN, "--seconds", "1.5"]
    with subprocess.Popen(
        command, env=environment(TERM="xterm-256color"), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the far side has closed
            while piece := os.read(ours, 65536):
                drawn += piece
        assert process.wait(BOUND) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert drawn.count(b"\x1b[") > 20  # drawn over and over in one place
    for name in ("connected to stream_manager", "video out", "objects in the newest", "Summary"):
        assert name in text
    assert text.index("video out") < text.index("Summary")


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_nothing_tells_a_secret_even_when_everything_is_logged(tmp_path: Any) -> None:
    secrets = ("k3y-of-ours", "us3r", "passw0rd")
    with running("--log-level", "debug", "serve", "--port", "0", "--json", "--key", "k3y-of-ours") as server:
        url = server.json()["url"]
        known = ("--server", url, "--key", "k3y-of-ours")
        done = deepio("--log-level", "debug", "stream", PATTERN, *known, "--auto", "--seconds", "1")
        assert done.returncode == 0
        said = done.stdout + done.stderr
        said += (done := deepio("--log-level", "debug", "peers", *known)).stdout + done.stderr
        for source in ("rtsp://us3r:passw0rd@127.0.0.1:1/x", "http://us3r:passw0rd@127.0.0.1:1/x"):
            done = deepio("--log-level", "debug", "stream", source, *known, "--auto", "--seconds", "2")
            assert done.returncode == 1
            assert "127.0.0.1:1" in done.stderr
            said += done.stdout + done.stderr
        code, rest, errors = server.end()
        assert code == 0
        said += rest + errors
    assert "DEBUG" in said
    for secret in secrets:
        assert secret not in said
