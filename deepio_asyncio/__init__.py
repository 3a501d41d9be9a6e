"""The public face for asyncio applications."""

__all__: list[str] = []
