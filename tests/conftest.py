"""What all tests share: how Hypothesis runs, and a fence that keeps their traffic on this machine."""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# No deadline: the first example of a test pays for imports, and shared machines stall. In CI the examples are
# drawn from a fixed seed, so that a change fails for what it does; elsewhere every run looks at new ones.
settings.register_profile("deepio", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deepio"))

_TRAFFIC = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_strayed: list[str] = []
_is_ours: dict[str, bool] = {}


def _stays_here(host: str) -> bool:
    """Tell whether an address belongs to this machine: only such an address can be bound."""
    if host not in _is_ours:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, 0))
            except OSError:
                _is_ours[host] = False
            else:
                _is_ours[host] = True
    return _is_ours[host]


def _fence(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _TRAFFIC or not isinstance(arguments[1], tuple):
        return
    host = str(arguments[1][0])
    if host != "localhost" and not _stays_here(host):
        _strayed.append(f"{event} to {arguments[1]}")
        raise PermissionError(f"tests talk to this machine only, not to {host}")


@pytest.fixture(scope="session", autouse=True)
def _fence_installed() -> None:
    # An audit hook stays until the process ends; it sees every Python socket, whichever library opened it.
    sys.addaudithook(_fence)


@pytest.fixture(autouse=True)
def _no_stray_traffic() -> Iterator[None]:
    """Fail the test that sent something elsewhere, even if the code under test swallowed the refusal."""
    yield
    strayed = _strayed.copy()
    _strayed.clear()
    assert not strayed, f"traffic left this machine: {strayed}"
