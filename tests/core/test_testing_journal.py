"""Journals: what they write down, and that they replay."""

from functools import partial

import pytest

from deepio_core import inputs, outputs, signals
from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.peer import Peer
from deepio_core.testing import Journal, replay
from deepio_core.testing.journal import Machine, Start, Timeout


def make_peer(now: float) -> Machine:
    return Peer(PeerConfig(peer_id="cam1"), now=now)


def make_other_peer(now: float) -> Machine:
    return Peer(PeerConfig(peer_id="cam1", open_timeout=1.0), now=now)


def a_short_life() -> Journal:
    """A peer that is refused a command, is sent nonsense and waits in vain."""
    journal = Journal()
    peer = make_peer(5.0)
    journal.record(peer, 5.0, Start(), lambda: None)
    with pytest.raises(LocalProtocolError, match="Cannot listen"):
        journal.record(peer, 5.5, inputs.Listen(), lambda: peer.handle(inputs.Listen(), now=5.5))
    journal.record(peer, 15.0, Timeout(), lambda: peer.handle_timeout(now=15.0))
    return journal


def test_entries_hold_inputs_and_outputs_in_order() -> None:
    start, refused, expired = a_short_life().entries
    assert (start.now, start.event, start.outputs) == (5.0, Start(), (outputs.OpenSignaling(link=1),))
    assert (refused.event, refused.outputs) == (inputs.Listen(), ())
    assert "Cannot listen while starting" in refused.refusal
    assert expired.event == Timeout()
    assert expired.outputs[-1] == outputs.CloseSignaling(link=1)


def test_replaying_gives_the_same_entries() -> None:
    journal = a_short_life()
    assert replay(journal, make_peer).entries == journal.entries


def test_replaying_into_another_machine_shows_the_difference() -> None:
    journal = a_short_life()

    def make_with_another_link(now: float) -> Machine:
        return Peer(PeerConfig(peer_id="cam1"), now=now, link=2)

    assert replay(journal, make_with_another_link).entries != journal.entries


def test_text_says_what_a_signal_is_and_shows_no_sdp() -> None:
    journal = Journal()
    peer = make_peer(0.0)
    journal.record(peer, 0.0, Start(), lambda: None)
    for event in (
        inputs.SignalingOpened(),
        inputs.SignalingReceived(text=signals.paired_text("sm1")),
        inputs.SignalingReceived(text=signals.offer_text("v=0 secret")),
        inputs.SignalingReceived(text="no JSON"),
    ):
        journal.record(peer, 1.0, event, partial(peer.handle, event, now=1.0))
    text = str(journal)
    assert "SignalingReceived(link=1): Paired(remote_id='sm1')" in text
    assert "SendSignaling(link=1): UnpairCommand()" in text
    assert "SignalingReceived(link=1): Offer()" in text
    assert "SignalingReceived(link=1): Not JSON" in text
    assert "secret" not in text
    assert journal.tail(1) in text
    assert "Offer" not in journal.tail(1)
    assert "! Cannot listen" in str(a_short_life())
