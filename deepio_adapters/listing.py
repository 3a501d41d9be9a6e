"""The peer list of a server, asked for once, without keeping the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from deepio_adapters.link import LinkError, open_link
from deepio_core import inputs, outputs
from deepio_core.config import PeerConfig
from deepio_core.outputs import Cause
from deepio_core.peer import Peer

if TYPE_CHECKING:
    from deepio_adapters.tls import TLSOptions
    from deepio_core.address import SignalingAddress
    from deepio_core.signals import PeerInfo

__all__ = ["list_peers"]


async def list_peers(
    address: SignalingAddress,
    *,
    tls: TLSOptions | None = None,
    allow_plain: bool | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109 - for the server's answer, which has a cause and a remedy of its own
) -> tuple[PeerInfo, ...]:
    """Connect, ask for the peers, and leave; on asyncio or trio.

    Args:
        address: The server, and as whom to ask.
        tls: How the server's certificate is checked; None: as the environment says.
        allow_plain: Allow ws:// to another machine; None: as the environment says.
        timeout: For the answer, seconds.

    Returns:
        All peers in the order of their connection, the asker among them.

    Raises:
        LinkError: The server cannot be reached, ends the connection, or does not answer in time.
        LocalProtocolError: `ws://` to another machine is not allowed.
    """
    peer = Peer(PeerConfig(peer_id=address.peer_id), now=0.0)
    async with open_link(address, tls=tls, allow_plain=allow_plain) as link:
        with anyio.move_on_after(timeout):
            peer.handle(inputs.SignalingOpened(), now=0.0)
            peer.handle(inputs.ListPeers(), now=0.0)
            while True:
                while (output := peer.poll()) is not None:
                    match output:
                        case outputs.SendSignaling():
                            await link.send(output.text)
                        case outputs.PeersListed():
                            return output.peers
                        case _:
                            pass
                peer.handle(inputs.SignalingReceived(text=await link.receive()), now=0.0)
    raise LinkError("The server has not answered in time.", cause=Cause.NO_REPLY, remedy="Is it a hyperpeer server?")
