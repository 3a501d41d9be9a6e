"""`deepio watch`: the results that a peer sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepio_asyncio import DeepIO
from deepio_cli.display import print_json
from deepio_cli.running import EXIT_FAILED
from deepio_cli.session import work
from deepio_cli.settings import own_id
from deepio_core.errors import DeepIOError
from deepio_core.messages import DataMessage

if TYPE_CHECKING:
    from deepio_cli.options import ServerOptions
    from deepio_core.messages import Message

__all__ = ["watch"]


async def watch(server: ServerOptions, peer: str, seconds: float | None, json: bool) -> int:
    """Show results until time is up, or a signal comes.

    Returns:
        0 if results came, or a signal has ended it; or else 1.

    Raises:
        DeepIOError: No server is named, or the session has failed.
    """
    if server.server is None:
        raise DeepIOError("There is no server to ask.", remedy="Give --server, or set HP_SERVER.")

    def on_message(message: Message) -> None:
        if json and isinstance(message, DataMessage):
            print_json(dict(message.raw))

    deep = DeepIO(
        **server.arguments(), source=None, peer_id=own_id("viewer"), peer_type="remote_client", remotePeerId=peer
    )
    tally = await work(deep, f"results of {peer}", seconds=seconds, quiet=json, on_message=on_message)
    if not json:
        print(f"{tally.results} results.")
    return 0 if tally.results or tally.interrupted else EXIT_FAILED
