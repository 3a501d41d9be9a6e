"""The testing kit: test what an application does about the protocol, without network, event loop or sleep.

* `Lab`: sessions, DEEP cores and a signaling server in memory and virtual time, for the tests of an application.
* `FakeDeepCore`: answers video with detections, and misbehaves when told to.
* `World`: the same one floor below, for whoever drives `Peer` and `Session` himself.
* `Journal` and `replay`: what went into a machine and what came out, to be read and repeated.
* `Simulation` and `SessionSimulation`: seeded runs in which everything goes wrong, judged by `Watch`.

The page on testing in the docs shows how they are used.
"""

from deepio_core.testing.deep_core import FakeDeepCore, SeenObject
from deepio_core.testing.engines import FakeEngine
from deepio_core.testing.journal import Entry, Journal, replay
from deepio_core.testing.lab import Lab, NeverHappenedError
from deepio_core.testing.mischief import CALM, STORM, Faults
from deepio_core.testing.nodes import PeerNode, SessionNode, Stranger
from deepio_core.testing.oracle import PeerWatch, SessionWatch, ViolationError, Watch
from deepio_core.testing.session_simulation import SessionSimulation
from deepio_core.testing.simulation import Simulation
from deepio_core.testing.world import World

__all__ = [
    "CALM",
    "Entry",
    "FakeDeepCore",
    "FakeEngine",
    "Faults",
    "Journal",
    "Lab",
    "NeverHappenedError",
    "PeerNode",
    "PeerWatch",
    "STORM",
    "SeenObject",
    "SessionNode",
    "SessionSimulation",
    "SessionWatch",
    "Simulation",
    "Stranger",
    "ViolationError",
    "Watch",
    "World",
    "replay",
]
