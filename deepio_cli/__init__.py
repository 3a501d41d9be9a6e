"""The ``deepio`` command."""

__all__: list[str] = []
