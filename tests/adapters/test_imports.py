"""Modules that are put off until they are used. In processes of their own: here, most have been imported."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> list[str]:
    """The lines that a program prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True).stdout.splitlines()


def test_a_stand_in_imports_the_module_when_something_of_it_is_used() -> None:
    told = run(
        """
import sys, urllib.parse
from deepio_adapters.imports import PutOff, put_off
with put_off(PutOff("urllib.request")):
    import urllib.request
    print("http.client" in sys.modules)
print("urllib.request" in sys.modules)
print(urllib.request.Request("http://a/b").host, "http.client" in sys.modules)
print(type(urllib.request).__name__, urllib.request is sys.modules["urllib.request"])
"""
    )
    assert told == ["False", "False", "a True", "module True"]


def test_who_gets_it_later_reads_and_changes_the_module() -> None:
    told = run(
        """
import sys, urllib.parse
from deepio_adapters.imports import PutOff, put_off
with put_off(PutOff("urllib.request")):
    import urllib.request
from urllib import request
request.invented = 5
print(sys.modules["urllib.request"].invented, "urlopen" in dir(request))
del request.invented
print(hasattr(sys.modules["urllib.request"], "invented"))
"""
    )
    assert told == ["5 True", "False"]


def test_used_within_the_block_it_is_the_real_one_from_then_on() -> None:
    told = run(
        """
import sys, urllib.parse
from deepio_adapters.imports import PutOff, put_off
with put_off(PutOff("urllib.request")):
    from urllib.request import Request
    import urllib.request
    print(urllib.request.Request is Request, type(urllib.request).__name__)
print(type(sys.modules["urllib.request"]).__name__)
"""
    )
    assert told == ["True module", "module"]


def test_what_is_loaded_already_stays() -> None:
    told = run(
        """
import sys, urllib.request
before = urllib.request
from deepio_adapters.imports import PutOff, put_off
with put_off(PutOff("urllib.request")):
    import urllib.request
    print(urllib.request is before)
print(sys.modules["urllib.request"] is before)
"""
    )
    assert told == ["True", "True"]


def test_a_link_is_opened_without_what_it_does_not_use() -> None:
    told = run(
        """
import asyncio, sys
from deepio_adapters.link import LinkError, open_link
from deepio_core.address import build_address
async def main():
    try:
        async with open_link(build_address("ws://127.0.0.1", 9, peer_type="a", peer_id="b")):
            pass
    except LinkError as error:
        print(error.cause)
asyncio.run(main())
print({"importlib.metadata", "urllib.request", "http.client"} & set(sys.modules))
"""
    )
    assert told == ["unreachable", "set()"]
