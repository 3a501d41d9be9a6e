"""A camera that is set up by its environment, as deep_io's example program of this name is.

HP_SERVER           server address; ws:// for a local core, wss:// is understood
SERVER_PORT         its port
STREAM_CAPTURE_ID   our id
SOURCE_<id>         the video source
STREAM_METADATA     optional: describes it
AUTO_CONNECT        optional: any text but the empty one means to call the first free stream manager; so does none
OUTPUT_FILE         optional: results go here, one JSON a line; messages.txt
"""

from __future__ import annotations

import json
import os
from typing import Any

from deepio_asyncio import DeepIO

peer_id = os.environ["STREAM_CAPTURE_ID"].rstrip()
source = os.environ[f"SOURCE_{peer_id}"].rstrip()

with open(os.environ.get("OUTPUT_FILE", "messages.txt"), "w", encoding="utf-8") as output:

    def write(message: Any) -> None:
        """Write what a result says about when, how large and what."""
        if message["type"] == "data":
            kept = {name: message[name] for name in ("vc_time", "last_frame_shape", "data")}
            output.write(json.dumps(kept) + "\n")

    camera = DeepIO(
        os.environ["HP_SERVER"],
        os.environ["SERVER_PORT"],
        source,
        peer_id=peer_id,
        peer_type="stream_capture",
        format={"mjpg": "mpjpeg"}.get(source[-4:], "v4l2" if source.startswith("/dev") else None),
        metadata=os.environ.get("STREAM_METADATA") or {"url": source},
        auto_connect=bool(os.environ.get("AUTO_CONNECT", "True")),
    )
    camera.add_data_handler(write)
    camera.run()
