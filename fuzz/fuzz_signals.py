"""Fuzz target: whatever bytes come over the signaling connection, there is a signal or the documented error.

Needs atheris, which is on the package index for Linux. From the top of the repository:

    mkdir found
    python -m fuzz.fuzz_signals found fuzz/corpus/signals -dict=fuzz/signals.dict -max_total_time=600

Then keep of what it found the least that reaches all of it:

    python -m fuzz.fuzz_signals -merge=1 fuzz/corpus/signals found
"""

import importlib
import sys
from contextlib import nullcontext
from typing import Any

# The tests replay the corpus through check() without atheris.
atheris: Any = importlib.import_module("atheris") if __name__ == "__main__" else None

with atheris.instrument_imports(include=["deepio_core"]) if atheris else nullcontext():
    from deepio_core import sdp, signals
    from deepio_core.errors import RemoteProtocolError
    from deepio_core.jsontext import decode, encode

LIMIT = 1 << 20

OUR_OFFER = "v=0\r\na=fingerprint:sha-256 00\r\nm=video 9 RTP 96\r\na=mid:0\r\nm=application 9 SCTP 5\r\na=mid:1\r\n"


def check(data: bytes) -> None:
    """Run one input through everything that reads it; any other exception is a bug."""
    try:
        value = decode(data, max_size=LIMIT)
    except RemoteProtocolError:
        return
    assert decode(encode(value), max_size=8 * LIMIT) == value
    command = signals.parse_command(data, max_size=LIMIT)
    if isinstance(command, signals.Relay):
        assert command.value == value
    check_signal(signals.parse_signal(data, max_size=LIMIT))


def check_signal(signal: signals.Signal) -> None:
    """Send the signal on and read it again; read the description in it."""
    repr(signal)
    match signal:
        case signals.Paired(remote_id=remote_id):
            text = signals.paired_text(remote_id)
        case signals.PeerList(peers=peers):
            text = signals.peers_text(peers)
        case signals.ServerError(code=code, message=message):
            text = signals.error_text(code, message)
        case signals.RemoteCandidate(candidate=signals.Candidate() as candidate):
            text = signals.candidate_text(candidate)
        case signals.Offer(sdp=description):
            text = signals.offer_text(description)
            assert sdp.offer_problem(description) or sdp.parse_description(description).has_fingerprint
        case signals.Answer(sdp=description):
            text = signals.answer_text(description)
            kinds = [line.kind for line in sdp.parse_description(description).media]
            assert sdp.answer_problem(OUR_OFFER, description) or kinds == ["video", "application"]
        case _:
            return
    assert signals.parse_signal(text, max_size=8 * LIMIT) == signal


if __name__ == "__main__":
    # To merge, libFuzzer runs itself in a shell under its own name, which must be a whole command then.
    atheris.Setup([f"{sys.executable} -m fuzz.fuzz_signals", *sys.argv[1:]], check)
    atheris.Fuzz()
