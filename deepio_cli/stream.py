"""`deepio stream`: a video to a DEEP core, its results to people and files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepio_asyncio import DeepIO
from deepio_cli.display import print_json
from deepio_cli.running import EXIT_FAILED
from deepio_cli.session import work
from deepio_cli.settings import find_source, read_metadata
from deepio_cli.tally import milliseconds
from deepio_core.errors import DeepIOError
from deepio_core.messages import DataMessage

if TYPE_CHECKING:
    from pathlib import Path

    from deepio_cli.options import ServerOptions
    from deepio_core.media.options import VideoOptions
    from deepio_core.messages import Message

__all__ = ["StreamOptions", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """The options of the command."""

    source: str | None
    source_arguments: Mapping[str, Any]
    video: VideoOptions
    peer_id: str
    peer_type: str
    connect: str | None
    auto: bool | None
    output: Path | None
    metadata: str | None
    seconds: float | None
    detector: str
    json: bool


async def stream(server: ServerOptions, options: StreamOptions) -> int:
    """Stream until the source ends, time is up, or a signal comes.

    Returns:
        0 if a connection came about, or a signal has ended it; or else 1.

    Raises:
        DeepIOError: There is no source, it cannot be opened, or the session has failed.
    """
    peer_id = options.peer_id.rstrip()
    source = find_source(options.source, peer_id)
    if source is None:
        raise DeepIOError("There is no source.", remedy=f"Give one, or set SOURCE_{peer_id}.")
    async with AsyncExitStack() as stack:
        arguments = server.arguments()
        if server.server is None:
            from deepio_server.core import CoreConfig, serve

            core = await stack.enter_async_context(serve(CoreConfig(detector=options.detector)))
            arguments["server_address"] = core.url
            arguments["server_port"] = None
        deep = DeepIO(
            **arguments,
            source=source,
            peer_id=peer_id,
            peer_type=options.peer_type,
            metadata=read_metadata(options.metadata, source),
            remotePeerId=options.connect,
            auto_connect=_auto_connect(server, options),
            video=options.video,
            **options.source_arguments,
        )
        with _results(options.output) as write:

            def on_message(message: Message) -> None:
                write(message)
                if options.json:
                    print_json({"event": "message", "message": message.raw})

            title = f"{deep.source_name} as {peer_id} to {deep.config.address.redacted}"
            tally = await work(deep, title, seconds=options.seconds, quiet=options.json, on_message=on_message)
    if options.json:
        print_json({"event": "ended", **tally.summary()})
    else:
        print(
            f"{tally.frames_sent} frames sent, {tally.results} results, latency median {milliseconds(tally.median)}, "
            f"{tally.reconnects} reconnects."
        )
    return 0 if tally.frames_sent or tally.results or tally.interrupted else EXIT_FAILED


def _auto_connect(server: ServerOptions, options: StreamOptions) -> bool:
    """As asked for; or else as the environment says, and with a local core, which waits for calls, yes."""
    if options.auto is not None:
        return options.auto
    said = os.environ.get("AUTO_CONNECT")
    if said is not None:
        return said.strip().lower() not in {"", "0", "false", "no", "off"}
    return server.server is None


@contextmanager
def _results(path: Path | None) -> Generator[Callable[[Message], object]]:
    """Gives what appends results to the file; it is for the owner's eyes, since results can be about people."""
    if path is None:
        yield lambda _: None
        return
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise DeepIOError(f"Results cannot be written to {path}: {error.strerror}.") from error
    with file:

        def write(message: Message) -> None:
            if isinstance(message, DataMessage):
                file.write(json.dumps(message.raw) + "\n")  # in ASCII: it may hold a lone surrogate
                file.flush()

        yield write
