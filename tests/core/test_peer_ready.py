"""`ready` is sent when the server does not list us as free, and not again while a pairing may be on its way.

The server pairs a listening peer at any moment. A second `ready` that crosses with that pairing would make the paired
peer free again: the next caller would take the place of the first, which hears nothing of it (hyperpeer-node).
"""

from deepio_core import inputs
from deepio_core.states import Stage
from tests.core.peers import BOB, BUSY, EVE, READY, UNPAIRED, briefly, bring, paired


def test_listening_again_says_ready_only_once() -> None:
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Disconnect())
    assert briefly(driven.do(inputs.Listen())) == ["ONLINE > LISTENING"]
    assert driven.sent.count(READY) == 1


def test_a_call_that_failed_leaves_us_ready() -> None:
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Connect(remote_id=BOB))
    driven.hear(BUSY)
    assert briefly(driven.do(inputs.Listen())) == ["ONLINE > LISTENING"]
    # The pairing that was on its way comes now.
    assert briefly(driven.hear(paired(EVE))) == ["LISTENING > CONNECTING", "ConnectionRequested eve"]


def test_every_pairing_makes_us_busy() -> None:
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Disconnect())
    driven.hear(paired())  # declined
    driven.hear(UNPAIRED)
    assert briefly(driven.do(inputs.Listen())) == ["send ready", "ONLINE > LISTENING"]


def test_after_a_session_ready_is_said_again() -> None:
    driven = bring(Stage.CONNECTED)
    said = driven.sent.count(READY)
    driven.hear(UNPAIRED)
    driven.close_engine()
    driven.do(inputs.Listen())
    assert driven.sent.count(READY) == said + 1


def test_a_pairing_that_is_ignored_makes_us_busy_too() -> None:
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Connect(remote_id=BOB))
    driven.do(inputs.Disconnect())
    assert briefly(driven.hear(paired(EVE))) == ["SignalIgnored"]
    driven.hear(UNPAIRED)
    assert briefly(driven.do(inputs.Listen())) == ["send ready", "ONLINE > LISTENING"]
