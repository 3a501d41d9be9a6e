"""From options and environment to the settings of the client."""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepio_core.jsontext import JSON

__all__ = ["find_own_modules", "find_source", "own_id", "read_metadata", "set_up_logging"]


def own_id(purpose: str) -> str:
    """An id that no other peer has."""
    return f"{purpose}-{uuid.uuid4().hex[:8]}"


def read_metadata(text: str | None, source: str) -> JSON:
    """The metadata that a person has given: JSON if it can be read as such, or else the text itself.

    Without any it says where the video comes from, as the example program of deep_io does.
    """
    from deepio_adapters.sources import redact

    if text is None:
        return {"url": redact(source)}
    try:
        value: JSON = json.loads(text)
    except ValueError:
        return text
    return value


def find_source(source: str | None, peer_id: str) -> str | None:
    """The source that a person has given, or that of the environment for this id, as in the example of deep_io."""
    return source or os.environ.get(f"SOURCE_{peer_id}", "").rstrip() or None


def find_own_modules() -> None:
    """Let a detector be imported from the working directory; last, so that nothing there hides an installed module."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def set_up_logging(level: str) -> None:
    """Log to stderr.

    Raises:
        BadParameter: There is no such level.
    """
    import logging

    import typer

    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise typer.BadParameter(f"{level!r} is no log level.", param_hint="--log-level")
    logging.basicConfig(level=number, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("aioice").setLevel(max(number, logging.WARNING))  # it tells addresses of every candidate pair
