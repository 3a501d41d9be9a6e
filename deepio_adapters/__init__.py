"""Everything that touches the outside world, shared by both event loops: links, engines, media and the driver."""

__all__: list[str] = []
