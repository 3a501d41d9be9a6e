"""`deepio peers`: who is on a server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepio_adapters.listing import list_peers
from deepio_cli.display import print_json
from deepio_cli.settings import own_id
from deepio_core.address import build_address
from deepio_core.errors import DeepIOError

if TYPE_CHECKING:
    from deepio_cli.options import ServerOptions

__all__ = ["peers"]


async def peers(server: ServerOptions, json: bool) -> int:
    """Tell who is on a server.

    Raises:
        DeepIOError: No server is named, it cannot be reached, or it does not answer.
    """
    if server.server is None:
        raise DeepIOError("There is no server to ask.", remedy="Give --server, or set HP_SERVER.")
    name = own_id("list")
    address = build_address(server.server, server.port, peer_type="deepio-peers", peer_id=name, key=server.key)
    listed = [peer for peer in await list_peers(address, **server.trust()) if peer.id != name]
    if json:
        print_json([dataclasses.asdict(peer) for peer in listed])
        return 0
    table = Table(title=f"Peers of {address.scheme}://{address.host}:{address.port}", title_justify="left")
    for column in ("id", "type", "state"):
        table.add_column(column)
    for peer in listed:
        table.add_row(Text(peer.id), Text(peer.type), "busy" if peer.busy else "free")
    Console().print(table if listed else "Nobody is there.")
    return 0
