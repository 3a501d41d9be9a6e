"""Frozen dataclasses that cost less to make.

The vocabulary of the core is more than a hundred small classes. `dataclasses.dataclass` writes six methods for each as
text and compiles them one by one, at every start of the process: with a hundred classes that is a tenth of the time
until the first picture is sent. Of those six, `__repr__`, `__eq__` and `__hash__` need not be written for each class.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass
    from typing import Literal
else:

    def dataclass(
        *,
        frozen: Literal[True],
        slots: Literal[True],
        kw_only: bool = False,
        eq: bool = True,
        repr: bool = True,  # noqa: A002 - the original's name
    ) -> Callable[[type], type]:
        """`dataclasses.dataclass` for classes that are frozen and have slots, which is all that it makes.

        Type checkers take it for the original, and so do `fields`, `replace` and `asdict`. Two records are equal if
        they are of one class and their fields are equal, except those made with `compare=False`.
        """
        original = dataclasses.dataclass(frozen=frozen, slots=slots, kw_only=kw_only, eq=False, repr=False)

        def make(plain: type) -> type:
            cls: Any = original(plain)
            fields = dataclasses.fields(cls)
            if eq:
                cls.__eq__, cls.__hash__ = _comparison([field.name for field in fields if field.compare])
            if repr and "__repr__" not in vars(plain):
                cls.__repr__ = _representation([field.name for field in fields if field.repr])
            return cls

        return make


def _comparison(names: list[str]) -> tuple[Any, Any]:
    # The class makes it a tuple however many names there are. Tuples hold a NaN for equal to itself, as the original.
    values = attrgetter("__class__", *names)

    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807
        if other.__class__ is not self.__class__:
            return NotImplemented
        return bool(values(self) == values(other))

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return __eq__, __hash__


def _representation(names: list[str]) -> Any:
    def __repr__(self: Any) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__
