"""What `import deepio_asyncio` loads, and what it leaves for later: programs are started often, and wait for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deepio_asyncio

LATER = ["av", "aiortc", "numpy", "websockets", "deepio_asyncio.peer", "deepio_adapters.fleet"]
"""Modules that are loaded when they are needed."""


def test_what_is_heavy_or_seldom_used_is_left_for_later() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import sys, deepio_asyncio; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(LATER) & set(told.stdout.split())


@pytest.mark.parametrize("name", deepio_asyncio.__all__)
def test_every_name_is_there_when_asked_for(name: str) -> None:
    assert getattr(deepio_asyncio, name).__name__ == name


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = deepio_asyncio.Nothing
