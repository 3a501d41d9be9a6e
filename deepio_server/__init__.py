"""A local DEEP core: signaling server, stream managers and detectors for development, tests and small sites."""

__all__: list[str] = []
