"""The public face for trio applications."""

from deepio_trio.deepio import DeepIO

__all__ = ["DeepIO"]
