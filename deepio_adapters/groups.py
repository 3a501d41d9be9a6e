"""Exception groups of one: what a task group raises when only one thing has gone wrong."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["Unwrapped", "unwrapped"]


class Unwrapped:
    """What an `unwrapped` block knows about the application's own errors."""

    def __init__(self) -> None:
        self.own: BaseException | None = None
        """An error of the application; it may be a group of one itself, and stays as it is."""


@contextmanager
def unwrapped() -> Generator[Unwrapped]:
    """Raise the one exception itself where a task group raises a group that holds nothing else.

    That an object runs tasks of its own is its own affair: an error in the body of its `async with`, or its one
    failure, comes out as it is.
    """
    known = Unwrapped()
    try:
        yield known
    except BaseExceptionGroup as group:
        error: BaseException = group
        while len(parts := _parts(error)) == 1:
            if known.own is not None and _parts(known.own) and _leaves(error) == _leaves(known.own):
                # Trio's cancel scopes make copies of groups, so this may be one.
                error = known.own
                break
            error = parts[0]
        if error is group:
            raise
        raise error from error.__cause__


def _parts(error: BaseException) -> tuple[BaseException, ...]:
    """What an exception group holds; nothing if it is none."""
    parts: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return parts if isinstance(error, BaseExceptionGroup) else ()


def _leaves(error: BaseException) -> list[BaseException]:
    return [leaf for part in _parts(error) for leaf in _leaves(part)] or [error]
