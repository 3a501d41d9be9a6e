"""Exception groups of one: what a task group raises when only one thing has gone wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["unwrapped"]


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the one exception itself where a task group raises a group that holds nothing else.

    That an object runs tasks of its own is its own affair: an error in the body of its `async with`, or its one
    failure, comes out as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            if len(error.exceptions) > 1:
                raise
            error = error.exceptions[0]
        raise error from error.__cause__
