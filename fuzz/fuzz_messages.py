"""Fuzz target: whatever bytes come over the data channel, there is a message or the documented error.

Needs atheris, which is on the package index for Linux. From the top of the repository:

    mkdir found
    python -m fuzz.fuzz_messages found fuzz/corpus/messages -dict=fuzz/messages.dict -max_total_time=600

Then keep of what it found the least that reaches all of it:

    python -m fuzz.fuzz_messages -merge=1 fuzz/corpus/messages found
"""

import importlib
import sys
from contextlib import nullcontext
from typing import Any

# The tests replay the corpus through check() without atheris.
atheris: Any = importlib.import_module("atheris") if __name__ == "__main__" else None

with atheris.instrument_imports(include=["deepio_core"]) if atheris else nullcontext():
    from deepio_core.errors import LocalProtocolError, RemoteProtocolError
    from deepio_core.jsontext import decode, encode
    from deepio_core.messages import DataMessage, acknowledgement, parse_message, to_json


def check(data: bytes) -> None:
    """Run one input through everything that reads it; any other exception is a bug."""
    try:
        value = decode(data, max_size=1 << 20)
    except RemoteProtocolError:
        return
    message = parse_message(value)
    repr(message)
    if isinstance(message, DataMessage):
        for name in (name for name, view in vars(DataMessage).items() if isinstance(view, property)):
            getattr(message, name)
        for detection in message.detections():
            repr(detection)
        if (echo := acknowledgement(message)) is not None:
            assert echo.rec_time == message.raw["rec_time"]
            encode(to_json(echo))
    try:
        sent = to_json(message)
    except LocalProtocolError:
        return
    assert parse_message(decode(encode(sent), max_size=8 << 20)) == message


if __name__ == "__main__":
    # To merge, libFuzzer runs itself in a shell under its own name, which must be a whole command then.
    atheris.Setup([f"{sys.executable} -m fuzz.fuzz_messages", *sys.argv[1:]], check)
    atheris.Fuzz()
