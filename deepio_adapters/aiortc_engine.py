"""The engine over aiortc, up to its connections: those import aiortc, which takes a third of a second or more."""

from __future__ import annotations

import importlib
import re
import sys
from typing import TYPE_CHECKING, Final

from deepio_adapters.engine_base import EngineBase
from deepio_adapters.imports import import_lock
from deepio_adapters.negotiation import Negotiation
from deepio_core.errors import LocalProtocolError

if TYPE_CHECKING:
    from deepio_adapters.engine import EngineConfig, Report
    from deepio_adapters.engine_room import EngineRoom
    from deepio_core.outputs import StartEngine

__all__ = ["AiortcEngine"]

ICE_SERVER: Final = re.compile(r"(stun|turn)s?:[^?:]+(:[0-9]+)?(\?transport=.*)?")
"""What aiortc understands (after RFC 7064 and 7065), known here before aiortc is imported."""


class AiortcEngine(EngineBase):
    """The engine over aiortc; use it through `engine.open_engine`.

    Raises:
        LocalProtocolError: The URL of an ICE server is malformed.
        RecordingError: The `media_sink` cannot be written.
    """

    def __init__(self, room: EngineRoom, config: EngineConfig, report: Report) -> None:
        for server in config.ice_servers:
            for url in server.all_urls:
                if not ICE_SERVER.fullmatch(url):
                    raise LocalProtocolError(
                        f"{url} is no address of a STUN or TURN server.",
                        remedy="Write it as stun:host:port or turn:host:port.",
                    )
        super().__init__(room, config, report)

    @property
    def imported(self) -> bool:
        """Whether aiortc is imported, as it is by all but the first connection of a process."""
        return "deepio_adapters.aiortc_connection" in sys.modules

    def load(self) -> None:
        """Imports aiortc, and makes what takes long the first time."""
        from deepio_adapters import aiortc_hooks

        with import_lock:
            aiortc_hooks.load()
            importlib.import_module("deepio_adapters.aiortc_connection")
        aiortc_hooks.warm_up()

    def new_negotiation(self, start: StartEngine) -> Negotiation:
        """Begins a negotiation."""
        from deepio_adapters import aiortc_connection

        return aiortc_connection.begin(self, start)
