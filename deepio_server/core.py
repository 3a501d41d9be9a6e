"""The local DEEP core: signaling, stream managers and detectors in one process, on one port.

async with serve(CoreConfig(port=8000)) as core:      # in an asyncio application
    ...
with local_core() as core:                            # anywhere else, in a thread of its own
    print(core.url)
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from deepio_adapters.groups import unwrapped
from deepio_core.errors import DeepIOError
from deepio_core.server import ServerConfig
from deepio_server.detectors import Detector, load_detector
from deepio_server.signaling import SignalingService
from deepio_server.stream_manager import StreamManager

if TYPE_CHECKING:
    from os import PathLike

    from anyio.abc import TaskStatus

__all__ = ["Core", "CoreConfig", "CoreError", "local_core", "serve"]

logger = logging.getLogger(__name__)

_quiet = logging.getLogger(f"{__name__}.connections")
_quiet.setLevel(logging.WARNING)  # below, records hold paths, and paths hold keys


class CoreError(DeepIOError):
    """The local core cannot be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """Settings of a local core."""

    host: str = "127.0.0.1"
    """Address to listen on. Whoever reaches it can send video to it, so it is this machine unless told otherwise."""
    port: int = 0
    """Port to listen on; 0 for any free one."""
    managers: int = 1
    """Stream managers, each for one camera at a time. Their ids are `stream_manager`, `stream_manager2`, ..."""
    peer_type: str = "stream_manager"
    """Type of the stream managers: `stream_manager`, or `deep_input` as in the current framework."""
    detector: str = ""
    """Detector, as `module:function`; empty for the motion detector. Each manager has its own."""
    signaling: ServerConfig = field(default_factory=ServerConfig)
    """Limits of the signaling server."""
    check_key: Callable[[str, str | None, str | None], bool] | None = None
    """Whether a peer may connect, by type, id and key; None: everybody."""
    tls_cert: str | PathLike[str] | None = None
    """PEM file with the certificate, for wss://."""
    tls_key: str | PathLike[str] | None = None
    """PEM file with the certificate's private key."""


class Core:
    """A running local core.

    Args:
        config: The settings.
        port: The port that it listens on.
        signaling: Its signaling server.
        managers: Its stream managers.
    """

    def __init__(
        self, config: CoreConfig, port: int, signaling: SignalingService, managers: tuple[StreamManager, ...]
    ) -> None:
        self.config = config
        """The settings."""
        self.port = port
        """The port that it listens on."""
        self.signaling = signaling
        """Its signaling server."""
        self.managers = managers
        """Its stream managers."""

    @property
    def url(self) -> str:
        """The server address for clients on this machine."""
        scheme = "wss" if self.config.tls_cert else "ws"
        host = self.config.host
        with contextlib.suppress(ValueError):
            address = ip_address(host)
            if address.is_unspecified:
                host = "127.0.0.1" if address.version == 4 else "::1"
            if address.version == 6:
                host = f"[{host}]"
        return f"{scheme}://{host}:{self.port}"


@asynccontextmanager
async def serve(config: CoreConfig) -> AsyncGenerator[Core]:
    """Run a local core in this event loop, which must be asyncio's, for as long as the block lasts.

    Raises:
        CoreError: The port cannot be had, or the certificate cannot be read.
        StreamManagerError: The limits of the signaling server leave no room for the stream managers.
        DetectorError: The detector cannot be loaded.
    """
    detectors = [load_detector(config.detector) for _ in range(config.managers)]
    with contextlib.closing(_listen(config)) as listener:
        core = _make_core(config, listener.getsockname()[1], detectors)
        server = _make_server(core)
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                for manager in core.managers:
                    await tasks.start(manager.run)
                await tasks.start(server.run_until_cancelled, listener)
                try:
                    yield core
                finally:
                    tasks.cancel_scope.cancel()


@contextmanager
def local_core(config: CoreConfig | None = None) -> Generator[Core]:
    """Run a local core in a thread of its own for as long as the block lasts; for trio applications and scripts.

    Args:
        config: The settings; None for a free port on this machine.

    Raises:
        CoreError: It cannot be started.
        DetectorError: The detector cannot be loaded.
    """
    with (
        anyio.from_thread.start_blocking_portal("asyncio", name="deepio-local-core") as portal,
        portal.wrap_async_context_manager(serve(config or CoreConfig())) as core,
    ):
        yield core


def _listen(config: CoreConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With the protocol named: asyncio sets TCP_NODELAY on no others, and then the second of two signals, which is the
    # offer after the pairing, waits 40 ms for the acknowledgement of the first.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise CoreError(
            f"The local core cannot listen on {config.host} port {config.port}: {error.strerror}.",
            remedy="Choose another port, or 0 for any free one.",
        ) from error
    return listener


def _make_core(config: CoreConfig, port: int, detectors: list[Detector]) -> Core:
    signaling = SignalingService(config.signaling, config.check_key)
    managers = tuple(
        StreamManager(
            functools.partial(signaling.connect, trusted=True),
            detector,
            peer_id="stream_manager" if number == 1 else f"stream_manager{number}",
            peer_type=config.peer_type,
        )
        for number, detector in enumerate(detectors, 1)
    )
    return Core(config, port, signaling, managers)


class _Server(uvicorn.Server):
    """uvicorn without its hold on signals, which belong to the application, and with a clean end when cancelled."""

    async def run_until_cancelled(
        self, listener: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve; connections are taken from when it has started."""
        self.lifespan = self.config.lifespan_class(self.config)
        try:
            await self.startup([listener])
            task_status.started()
            await self.main_loop()
        finally:
            with anyio.CancelScope(shield=True):
                if self.started:
                    await self.shutdown([listener])
                for connection in list(self.server_state.connections):
                    connection.transport.abort()  # it has not even read our goodbye


class _Protocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket without the log records that hold paths, and with them the peers' keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _quiet
        self.conn = ServerProtocol(max_size=self.config.ws_max_size, logger=_quiet)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # uvicorn holds it for incomplete, and logs an error for each refused key


def _make_server(core: Core) -> _Server:
    if core.config.tls_key and not core.config.tls_cert:
        raise CoreError("There is a private key, but no certificate.", remedy="Give tls_cert too.")

    async def tell(_request: Request) -> PlainTextResponse:
        # Where a key is asked for, who has none learns nothing.
        peers = () if core.config.check_key else core.signaling.peers
        lines = [f"{peer.type} {peer.id} {'busy' if peer.busy else 'free'}" for peer in peers]
        return PlainTextResponse("\n".join(["This is a local core of deep-io.", *lines, ""]))

    app = Starlette(routes=[Route("/", tell), WebSocketRoute("/{path:path}", core.signaling)])
    config = uvicorn.Config(
        app,
        log_config=None,  # logging belongs to the application
        access_log=False,
        lifespan="off",
        ws=_Protocol,
        ws_max_size=core.config.signaling.max_message_size,
        ws_per_message_deflate=False,
        ssl_certfile=core.config.tls_cert,
        ssl_keyfile=core.config.tls_key,
        timeout_graceful_shutdown=2,
    )
    try:
        config.load()
    except OSError as error:
        raise CoreError(f"The certificate or its key cannot be read: {error}.", remedy="Check both files.") from error
    return _Server(config)
