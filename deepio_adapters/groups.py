"""Exception groups of one: what a task group raises when only one thing has gone wrong."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

__all__ = ["unwrapped"]


@contextmanager
def unwrapped() -> Generator[None]:
    """Raise the one exception itself where a task group raises a group that holds nothing else.

    That an object runs tasks of its own is its own affair: an error in the body of its `async with`, or its one
    failure, comes out as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = _only(group)
        if error is None:
            raise
        raise error from error.__cause__


def _only(error: BaseException) -> BaseException | None:
    """The one exception in a group, or in groups of groups; None if there are more."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inside = cast("tuple[BaseException, ...]", error.exceptions)  # pyright: ignore[reportUnknownMemberType]
    return _only(inside[0]) if len(inside) == 1 else None
