"""Messages that no peer of ours sends, and that any other may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepio_core import signals
from deepio_core.testing.engines import make_candidate, make_description

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_JUNK: tuple[str | bytes, ...] = (
    "",
    "null",
    "5",
    "[]",
    "{}",
    "no JSON",
    "{" * 1000,
    '"\\ud800"',
    b"\xff\xfe",
    b"{}",
    '{"type":null}',
    '{"type":"status"}',
    '{"type":"status","status":"paired"}',
    '{"type":"peers","peers":[{}]}',
    '{"type":"peers","peers":[]}',
    '{"type":"error"}',
    '{"type":"offer"}',
    '{"type":"answer","sdp":"nothing"}',
    '{"candidate":null}',
    '{"candidate":{"candidate":"nonsense","sdpMid":"0"}}',
    '{"renegotiate":true}',
    '{"type":"transceiverRequest","transceiverRequest":{"kind":"video"}}',
    '{"type":"chat","text":"hello"}',
)


def signal(dice: Random, ids: Sequence[str]) -> str | bytes:
    """Something that a server, or a peer through it, may say at any time.

    Args:
        dice: Where to draw from.
        ids: Peers that it may name.
    """
    forged = (
        signals.UNPAIRED,
        # These two, and candidates, mean something in most stages.
        *[signals.paired_text(dice.choice(ids))] * 3,
        *[signals.error_text(signals.ERR_BAD_STATE)] * 3,
        signals.error_text(signals.ERR_PEER_BUSY),
        signals.error_text(signals.ERR_PEER_NOT_FOUND),
        signals.error_text(signals.ERR_BAD_SIGNAL),
        signals.offer_text(make_description(0)),
        signals.answer_text(make_description(0, 0)),
        *[signals.candidate_text(make_candidate(0))] * 3,
    )
    return dice.choice(_JUNK) if dice.random() < 0.2 else dice.choice(forged)


def command(dice: Random, ids: Sequence[str]) -> str:
    """Something that a client may say to the server: mostly a command, in any order.

    Args:
        dice: Where to draw from.
        ids: Peers that it may name.
    """
    commands = (
        signals.READY,
        signals.READY,
        signals.pair_text(dice.choice(ids)),
        signals.pair_text(dice.choice(ids)),
        signals.LIST_PEERS,
        signals.UNPAIR,
        signals.offer_text(make_description(0)),
        signals.candidate_text(make_candidate(0)),
        '{"type":"chat","text":"hello"}',
        "no JSON",
    )
    return dice.choice(commands)


def data(dice: Random) -> str | bytes:
    """Something that a remote peer may say over the data channel.

    Args:
        dice: Where to draw from.
    """
    return dice.choice(_JUNK)
