"""One contract for the `DeepIO` of both event loops, kept in memory and over real sockets and aiortc."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

import deepio_asyncio
import deepio_trio
from deepio_adapters.face import DeepIOBase
from tests.worlds import RealWorld, World, new_id, quick


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def face(anyio_backend: str) -> type[Any]:
    """The class under test. Any: `send_metadata` returns a task here and is a coroutine there; both are awaited."""
    return {"asyncio": deepio_asyncio.DeepIO, "trio": deepio_trio.DeepIO}[anyio_backend]


@pytest.fixture(params=["memory", "real"])
async def world(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncGenerator[World]:
    async with {"memory": World, "real": RealWorld}[request.param]().running() as made:
        yield made


@pytest.fixture
async def memory(anyio_backend: str) -> AsyncGenerator[World]:
    async with World().running() as made:
        yield made


@pytest.fixture
def deepio(face: type[Any]) -> Callable[..., Any]:
    """Makes a DeepIO in a world."""

    def make(world: World, source: object = None, **arguments: Any) -> DeepIOBase:
        deep: DeepIOBase = face(
            world.server, None, source, arguments.pop("peer_id", None) or new_id("cam"), **arguments
        )
        deep.config = quick(deep.config, world)
        return deep

    return make
