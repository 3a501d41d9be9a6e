"""Where we reach past the public interface of aiortc and aioice, all in one place, each with what happens without.

Nothing here is needed to connect. The hooks are used with the versions that they were read and tested against, and
switched off with one log line otherwise. They are functions of objects that the engine holds; nothing is patched that
other users of aiortc in the same process would see, except that `load` puts the mDNS part of aioice off until it is
used.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import sys
import time
from functools import cache
from typing import Any, Final

from deepio_adapters.imports import PutOff, put_off
from deepio_core.records import dataclass

__all__ = ["Traffic", "ask", "discard", "load", "path", "prepare", "traffic", "usable", "warm_up"]

logger = logging.getLogger(__name__)

TESTED: Final = {"aiortc": "1.16.", "aioice": "0.13.", "pylibsrtp": "1.0."}
"""The series that the hooks are written for."""

CHECK_INTERVAL: Final = 0.005
"""Seconds between two connectivity checks: the least that RFC 8445 section 14.2 allows; aioice takes 20 ms, and looks
for the result no more often."""

ASK_RETRIES: Final = 1
"""Repetitions of a STUN request that asks for a sign of life: answers are awaited for 1.5 s in all (aioice doubles from
0.5 s), a round trip that no usable path exceeds."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed a transport so far, STUN not counted."""

    bytes_sent: int
    """Bytes sent."""
    bytes_received: int
    """Bytes received."""
    packets_sent: int
    """Packets sent."""
    packets_received: int
    """Packets received."""


@cache
def usable() -> bool:
    """True with the versions that the hooks are written for."""
    # Not from importlib.metadata, which takes 10 ms to import.
    found = {name: str(importlib.import_module(name).__version__) for name in TESTED}
    unknown = [f"{name} {number}" for name, number in found.items() if not number.startswith(TESTED[name])]
    if unknown:
        logger.warning(
            "Not tested with %s: a remote peer that vanishes is noticed after 30 s only, connecting is slower, "
            "video costs twice the CPU, and when the far side loses some, it waits for the next keyframe.",
            " and ".join(unknown),
        )
    return not unknown


class _Mdns(PutOff):
    """Stands in for `aioice.mdns` in the eyes of `aioice.ice`, which looks at `MDnsProtocol` for annotations only."""

    MDnsProtocol = object

    @staticmethod
    def is_mdns_hostname(name: str) -> bool:
        return re.match(r"^[a-zA-Z0-9-]{1,63}\.local$", name) is not None


def load() -> None:
    """Imports aiortc and aioice without dnspython, which is a sixth of what takes so long to import of them.

    aioice needs it to resolve `.local` names, and loads it then. Without: it is loaded at once. Does nothing if aioice
    has been imported before. Blocks; from any thread.
    """
    if "aioice" in sys.modules:
        return
    # aiortc asks multiprocessing for the number of CPUs when it encodes VP8.
    with put_off(_Mdns("aioice.mdns"), PutOff("multiprocessing")):
        importlib.import_module("aiortc")
    ice: Any = importlib.import_module("aioice.ice")
    if not usable():
        ice.mdns = importlib.import_module("aioice.mdns")


def traffic(transport: Any) -> Traffic | None:
    """The counters of an RTCDtlsTransport. Without: None, and the engine takes every connection for alive.

    The public `getStats` has them as well, but only for connections with media.
    """
    if not usable():
        return None
    (stats,) = transport._get_stats().values()
    return Traffic(stats.bytesSent, stats.bytesReceived, stats.packetsSent, stats.packetsReceived)


async def ask(ice: Any) -> float | None:
    """Asks the far side of an RTCIceTransport for a STUN answer; returns the round trip in seconds, None without one.

    It is an ordinary Binding request on the path in use, as aioice sends for consent (RFC 7675) every 4 to 6 s and
    browsers every 2.5 s; every ICE implementation answers. Only sent while nothing else arrives, and to measure.
    """
    if not usable():
        return None
    connection = ice._connection
    pair = connection._nominated.get(1)
    if pair is None:
        return None
    from aioice.stun import TransactionError

    request = connection.build_request(pair, nominate=False)
    began = time.monotonic()
    try:
        await pair.protocol.request(
            request,
            pair.remote_addr,
            integrity_key=connection.remote_password.encode(),
            retransmissions=ASK_RETRIES,
        )
    except TransactionError:
        return None
    return time.monotonic() - began


def path(ice: Any) -> str | None:
    """Types of the candidates that an RTCIceTransport uses, ours and theirs; None before there is a path."""
    if not usable():
        return None
    pair = ice._connection._nominated.get(1)
    return None if pair is None else f"{pair.local_candidate.type}-{pair.remote_candidate.type}"


def discard(receiver: Any) -> None:
    """Has an RTCRtpReceiver drop packets undecoded. Without: they are decoded, and the frames dropped."""
    if usable():
        receiver._enabled = False


def prepare(ice: Any) -> None:
    """Prepares an RTCIceTransport before it gathers: to work offline, and to check faster.

    Without: a machine that has no network but loopback cannot connect to itself; connecting takes 10 to 20 ms more.
    """
    if not usable():
        return
    connection = ice._connection
    gather, check = connection.get_component_candidates, connection._check_periodic
    pacing: list[asyncio.Task[None]] = []

    async def get_component_candidates(component: int, addresses: list[str]) -> Any:
        # aioice never offers loopback; on a machine without a network it is all there is.
        if not addresses and connection._transport_policy.name == "ALL":
            addresses = ["127.0.0.1"]
        return await gather(component=component, addresses=addresses)

    async def pace() -> None:
        while check():  # noqa: ASYNC110 - it starts checks, and is not waiting for anything
            await asyncio.sleep(CHECK_INTERVAL)

    def check_periodic() -> bool:
        # `connect` calls this until it returns False, and then waits for the result of the checks; on an empty list it
        # gives up instead, so with that we leave it alone.
        if not connection._check_list:
            return bool(check())
        if not connection._check_list_done and not pacing:
            pacing.append(asyncio.ensure_future(pace()))
        return False

    connection.get_component_candidates = get_component_candidates
    connection._check_periodic = check_periodic


def warm_up() -> None:
    """Makes and forgets a certificate and a TLS context: the first of a process take 35 ms. Blocks; from any thread."""
    if usable():
        from aiortc.rtcdtlstransport import SRTP_PROFILES, RTCCertificate

        certificate: Any = RTCCertificate.generateCertificate()
        certificate._create_ssl_context(SRTP_PROFILES)
