"""A local DEEP core for development, tests and small sites: signaling, stream managers, detectors."""

__all__: list[str] = []
