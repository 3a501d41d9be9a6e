"""deep-io core: the hyperpeer signaling protocol and the DEEP messages as pure state machines.

The modules are the namespace, named after the nouns of the protocol; importing the package itself imports nothing.
Those who embed the core begin with `peer.Peer` or `session.Session` (the client role), `server.SignalingServer` (the
server role), `messages` (DEEP's messages) and `testing` (a world in memory, to test an application in).
"""

__all__: list[str] = []
