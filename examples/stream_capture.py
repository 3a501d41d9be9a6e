"""Streams a source named by the environment and keeps the results, like the program of this name that deep_io has.

    HP_SERVER, SERVER_PORT   the server; without them a local core is started
    STREAM_CAPTURE_ID        our id; default: camera
    SOURCE_<id>              the source; default: the test pattern
    STREAM_METADATA          describes the source; default: {"url": source}
    AUTO_CONNECT             empty, 0 or False: wait to be called; default: call the first free stream manager
    OUTPUT_FILE              where results go, one JSON a line; default: messages.txt

It ends with the source, or by Ctrl-C.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import Any

from deepio_asyncio import DeepIO


def source_format(source: str) -> str | None:
    """The format of sources that do not tell it themselves."""
    if source.endswith("mjpg"):
        return "mpjpeg"
    return "v4l2" if source.startswith("/dev") else None


def main() -> None:
    environment = os.environ
    peer_id = environment.get("STREAM_CAPTURE_ID", "camera").rstrip()
    source = environment.get(f"SOURCE_{peer_id}", "test:").rstrip()
    auto_connect = environment.get("AUTO_CONNECT", "True").strip().lower() not in {"", "0", "false"}
    metadata: Any = environment.get("STREAM_METADATA", {"url": source})

    with ExitStack() as stack:
        server, port = environment.get("HP_SERVER"), environment.get("SERVER_PORT")
        if server is None:
            from deepio_server.core import local_core

            server, port = stack.enter_context(local_core()).url, None
        output = stack.enter_context(open(environment.get("OUTPUT_FILE", "messages.txt"), "w", encoding="utf-8"))

        def keep(message: dict[str, Any]) -> None:
            if message.get("type") == "data":
                kept = {name: message[name] for name in ("vc_time", "last_frame_shape", "objects")}
                output.write(json.dumps(kept) + "\n")
                output.flush()

        deep = DeepIO(
            server, port, source, peer_id, format=source_format(source), metadata=metadata, auto_connect=auto_connect
        )
        deep.add_data_handler(keep)
        deep.run()


if __name__ == "__main__":
    main()
