"""All I/O, shared by both event loops: signaling links, WebRTC engines, media and the driver."""

__all__: list[str] = []
