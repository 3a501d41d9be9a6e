"""What several tests of the testing kit begin with."""

from deepio_core import inputs
from deepio_core.states import Stage
from deepio_core.testing import PeerNode, World


def meet(world: World, caller: PeerNode, listener: PeerNode) -> None:
    """Connect two peers that are alone and idle."""
    world.drain()
    listener.handle(inputs.Listen())
    world.drain()
    caller.handle(inputs.Connect(remote_id=listener.id))
    world.drain()
    listener.handle(inputs.Accept())
    world.drain()
    assert caller.machine.stage is Stage.CONNECTED
