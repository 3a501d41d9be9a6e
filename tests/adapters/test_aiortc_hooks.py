"""What aiortc and aioice are spared at the start. In processes of their own: here, both have been imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What a program prints, standard error included."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        # Not measured: what measures imports modules, too.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
    )
    return done.stdout


LOADED = "print(sorted({name.partition('.')[0] for name in sys.modules} & {'dns', 'aiortc'}))"


def test_dnspython_is_not_loaded_until_it_is_used() -> None:
    told = run(
        f"""
import asyncio, sys
from deepio_adapters import aiortc_hooks
aiortc_hooks.load()
import aiortc
{LOADED}
from aioice import ice
for name in ("0123-abcd.local", "192.0.2.1", "local"):
    print(ice.mdns.is_mdns_hostname(name))
{LOADED}
async def main():
    protocol = await ice.get_or_create_mdns_protocol("somebody")
    print(type(protocol).__module__)
    await ice.unref_mdns_protocol("somebody")
asyncio.run(main())
import aioice.mdns
print(aioice.mdns.create_mdns_protocol is ice.mdns.create_mdns_protocol)
"""
    )
    assert told.splitlines() == ["['aiortc']", "True", "False", "False", "['aiortc']", "aioice.mdns", "True"]


def test_multiprocessing_is_not_loaded_until_it_is_used() -> None:
    told = run(
        """
import sys
from deepio_adapters import aiortc_hooks
aiortc_hooks.load()
from aiortc.codecs import vpx
print("multiprocessing" in sys.modules)
print(vpx.multiprocessing.cpu_count() > 0, "multiprocessing" in sys.modules)
"""
    )
    assert told.splitlines() == ["False", "True True"]


def test_others_import_the_real_module() -> None:
    told = run(
        """
import sys
from deepio_adapters import aiortc_hooks
aiortc_hooks.load()
from aioice import ice, mdns
print(mdns.MDnsProtocol.__mro__[1].__name__, type(mdns).__name__)
print(ice.mdns.create_mdns_hostname().endswith(".local"))
"""
    )
    assert told.splitlines() == ["DatagramProtocol module", "True"]


def test_with_an_unknown_version_nothing_is_put_off() -> None:
    told = run(
        f"""
import sys
from deepio_adapters import aiortc_hooks
aiortc_hooks.TESTED = {{"aiortc": "0.", "aioice": "0."}}
aiortc_hooks.load()
from aioice import ice
print(type(ice.mdns).__name__)
{LOADED}
"""
    )
    assert told.splitlines()[1:] == ["module", "['aiortc', 'dns']"]
    assert "Not tested with aiortc" in told


def test_what_is_loaded_already_stays() -> None:
    told = run(
        """
import sys
from aioice import ice
before = ice.mdns
from deepio_adapters import aiortc_hooks
aiortc_hooks.load()
print(ice.mdns is before is sys.modules["aioice.mdns"])
"""
    )
    assert told == "True\n"


@pytest.mark.parametrize("module", ["deepio_core", "deepio_asyncio", "deepio_trio"])
def test_media_libraries_are_not_imported_until_they_are_needed(module: str) -> None:
    told = run(f"import sys, {module}; print(sorted({{'aiortc', 'av', 'numpy', 'dns', 'cv2'}} & set(sys.modules)))")
    assert told == "[]\n"
