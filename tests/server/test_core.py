"""The local core as a whole: it starts or says why not, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import anyio
import pytest
import trustme

import deepio_asyncio
from deepio_adapters.link import LinkError
from deepio_adapters.listing import list_peers
from deepio_core.address import build_address
from deepio_core.messages import DataMessage
from deepio_core.server import ServerConfig
from deepio_server.core import Core, CoreConfig, CoreError, local_core, serve
from deepio_server.detectors import DetectorError
from deepio_server.signaling import SignalingService
from deepio_server.stream_manager import StreamManagerError
from tests import detecting
from tests.engines import BOUND
from tests.worlds import nothing_left

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(40)]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}


def certificate(folder: Any) -> tuple[Any, Any]:
    issued = trustme.CA().issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    return chain, key


async def peers_of(core: Core) -> list[str]:
    address = build_address(core.url, None, peer_type="test", peer_id="asker")
    return [peer.id for peer in await list_peers(address)]


# --- Starting -------------------------------------------------------------------------------------------------------


async def test_the_port_is_there_from_the_first_moment() -> None:
    async with serve(CoreConfig()) as core:
        connection = socket.create_connection(("127.0.0.1", core.port), timeout=BOUND)
        connection.close()
        assert await peers_of(core) == ["stream_manager", "stream_manager_output", "asker"]


async def test_a_port_in_use_is_said() -> None:
    async with serve(CoreConfig()) as core:
        with pytest.raises(CoreError, match=f"cannot listen on 127.0.0.1 port {core.port}.*in use") as raised:
            async with serve(CoreConfig(port=core.port)):
                pass
        assert raised.value.remedy
        assert "stream_manager" in await peers_of(core)


async def test_an_address_that_is_not_ours_is_said() -> None:
    for host in ("192.0.2.1", "no.such.host.invalid", "::ffff:192.0.2.1"):
        with pytest.raises(CoreError, match="cannot listen on"):
            async with serve(CoreConfig(host=host)):
                pass


async def test_a_certificate_that_cannot_be_read_is_said(tmp_path: Any) -> None:
    chain, key = certificate(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.touch()
    for pair in ((tmp_path / "none.pem", key), (empty, key), (chain, tmp_path), (chain, None), (key, chain)):
        with pytest.raises(CoreError, match="cannot be read") as raised:
            async with serve(CoreConfig(tls_cert=pair[0], tls_key=pair[1])):
                pass
        assert raised.value.remedy


async def test_a_key_without_certificate_is_no_tls_by_mistake(tmp_path: Any) -> None:
    _, key = certificate(tmp_path)
    with pytest.raises(CoreError, match="certificate"):
        async with serve(CoreConfig(tls_key=key)):
            pass


async def test_an_unknown_detector_is_said() -> None:
    with pytest.raises(DetectorError, match="nothing"):
        async with serve(CoreConfig(detector="tests.detecting:nothing")):
            pass


async def test_managers_that_cannot_connect_are_said() -> None:
    for limits in (ServerConfig(max_peers=1), ServerConfig(characters=frozenset("abc"))):
        with pytest.raises(StreamManagerError, match="cannot connect"):
            async with serve(CoreConfig(signaling=limits)):
                pass


async def test_managers_need_no_key() -> None:
    async with serve(CoreConfig(check_key=lambda _type, _id, key: key == "right")) as core:
        address = build_address(core.url, None, peer_type="test", peer_id="asker", key="right")
        assert len(await list_peers(address)) == 3


def test_all_of_it_is_said_outside_of_an_event_loop_too() -> None:
    with local_core() as core:
        for config, error in ((CoreConfig(port=core.port), CoreError), (CoreConfig(detector="x"), DetectorError)):
            with pytest.raises(error), local_core(config):
                pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "ws://127.0.0.1:80"),
        ("0.0.0.0", "ws://127.0.0.1:80"),
        ("::", "ws://[::1]:80"),
        ("::1", "ws://[::1]:80"),
        ("localhost", "ws://localhost:80"),
    ],
)
def test_its_url_is_good_on_this_machine(host: str, url: str) -> None:
    assert Core(CoreConfig(host=host), 80, SignalingService(), ()).url == url


async def test_it_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with serve(CoreConfig(host="::1")) as core:
        assert "stream_manager" in await peers_of(core)


# --- Ending ---------------------------------------------------------------------------------------------------------


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with serve(CoreConfig()):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), local_core():
        raise ZeroDivisionError


async def stream_to(core: Core, connected: anyio.Event) -> None:
    """A camera that stays as long as it is let."""
    async with deepio_asyncio.DeepIO(core.url, None, "test:160x128@25", "cam", auto_connect=True) as deep:
        async for message in deep.messages():
            if isinstance(message, DataMessage):
                connected.set()


async def test_it_ends_in_bounded_time_whoever_is_connected_and_leaves_nothing() -> None:
    async with serve(CoreConfig()):
        pass  # what libraries keep for good is there now
    tasks = asyncio.all_tasks()
    with nothing_left():
        async with anyio.create_task_group() as group:
            connected = anyio.Event()
            async with serve(CoreConfig()) as core:
                group.start_soon(stream_to, core, connected)
                silent = socket.create_connection(("127.0.0.1", core.port))
                with anyio.fail_after(BOUND):
                    await connected.wait()
                begin = time.monotonic()
            assert time.monotonic() - begin < 6
            with pytest.raises(LinkError):
                await peers_of(core)
            silent.close()
            group.cancel_scope.cancel()
    assert asyncio.all_tasks() == tasks


async def test_a_cancelled_core_leaves_nothing() -> None:
    async with serve(CoreConfig()):
        pass
    tasks = asyncio.all_tasks()
    with nothing_left():
        async with anyio.create_task_group() as group:

            async def run(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
                async with serve(CoreConfig()) as core:
                    task_status.started(core)
                    await anyio.sleep_forever()

            core = await group.start(run)
            assert "stream_manager" in await peers_of(core)
            group.cancel_scope.cancel()
        # The port is free again.
        socket.create_server(("127.0.0.1", core.port)).close()
        for steps in range(0, 60, 4):  # and wherever it is cancelled on its way
            with anyio.CancelScope() as scope:

                async def cancel_later(scope: anyio.CancelScope = scope, steps: int = steps) -> None:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    scope.cancel()

                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_later)
                    async with serve(CoreConfig()):
                        await anyio.sleep_forever()
    assert asyncio.all_tasks() == tasks


def test_a_core_in_a_thread_ends_with_its_block() -> None:
    with local_core():
        pass
    with nothing_left():
        for _ in range(3):
            with local_core() as core:
                assert any(thread.name == "deepio-local-core" for thread in threading.enumerate())
                socket.create_connection(("127.0.0.1", core.port)).close()


async def test_a_detector_that_hangs_keeps_nobody() -> None:
    detecting.hanging.clear()
    try:
        async with serve(CoreConfig(detector="tests.detecting:hangs")) as core:
            deep = deepio_asyncio.DeepIO(core.url, None, "test:160x128@25", "cam", auto_connect=True)
            async with deep:
                with anyio.fail_after(BOUND):
                    await deep.wait_connected()
                    async for _ in core.managers[0].camera.frames():
                        if core.managers[0].statistics.received_frames:
                            break
                begin = time.monotonic()
        assert time.monotonic() - begin < 8
    finally:
        detecting.hanging.set()


# --- Secrets --------------------------------------------------------------------------------------------------------


async def test_no_log_holds_a_key(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)

    def check(_type: str, _id: str | None, key: str | None) -> bool:
        return key != "wr0ng-key"

    async with serve(CoreConfig(check_key=check)) as core:
        for key in ("r1ght-key", "wr0ng-key"):
            address = build_address(core.url, None, peer_type="t", peer_id="one", key=key)
            try:
                peers = await list_peers(address)
            except LinkError:
                assert key == "wr0ng-key"
            else:
                assert peers
        reader, writer = await asyncio.open_connection("127.0.0.1", core.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"stream_manager" not in await reader.read()  # nor does who has none learn who is there
        writer.close()
        await writer.wait_closed()
    assert "one" in caplog.text
    assert "r1ght-key" not in caplog.text
    assert "wr0ng-key" not in caplog.text
