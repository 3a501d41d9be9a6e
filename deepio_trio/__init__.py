"""The public face for trio applications."""

__all__: list[str] = []
