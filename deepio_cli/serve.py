"""`deepio serve`: a local DEEP core."""

from __future__ import annotations

import hmac
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from deepio_cli.display import print_json
from deepio_cli.session import cancelled_by_signals
from deepio_core.address import encode_segment
from deepio_server.core import CoreConfig
from deepio_server.core import serve as serve_core

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["serve"]


async def serve(
    host: str,
    port: int,
    managers: int,
    detector: str,
    key: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    json: bool,
) -> int:
    """Run a local core until a signal comes.

    Raises:
        DeepIOError: It cannot be started.
    """
    config = CoreConfig(
        host=host,
        port=port,
        managers=managers,
        detector=detector,
        check_key=None if key is None else _key_check(key),
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    with anyio.CancelScope() as scope, cancelled_by_signals(scope):
        async with serve_core(config) as core:
            if json:
                print_json({"event": "listening", "url": core.url, "managers": managers})
            else:
                print(f"The local DEEP core listens on {core.url}. Ctrl-C ends it.", flush=True)
                print(f"Stream to it: deepio stream VIDEO --server {core.url} --auto", file=sys.stderr)
            await anyio.sleep_forever()
    return 0


def _key_check(expected: str) -> Callable[[str, str | None, str | None], bool]:
    encoded = encode_segment(expected).encode()

    def check(_type: str, _id: str | None, key: str | None) -> bool:
        return hmac.compare_digest(encoded, (key or "").encode())

    return check
