"""The public face for asyncio applications."""

from deepio_asyncio.deepio import DeepIO

__all__ = ["DeepIO"]
