"""Frozen dataclasses that cost a third as much to make.

The vocabulary of the core is more than a hundred small classes. `dataclasses.dataclass` writes six methods for each as
text and compiles them one by one, at every start of the process: with a hundred classes that is a tenth of the time
until the first picture is sent. Of those six, only `__init__` has to be written for each class.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

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
        they are of one class and their fields are equal, except those made with `compare=False`. A record cannot be
        derived from another, and every field is an argument.
        """
        assert frozen, "a record cannot be changed"
        original = dataclasses.dataclass(init=False, slots=slots, kw_only=kw_only, eq=False, repr=False)

        def make(plain: type) -> type:
            cls: Any = original(plain)
            fields = dataclasses.fields(cls)
            cls.__init__ = _constructor(cls, fields)
            cls.__setattr__, cls.__delattr__ = _refuse_to_set, _refuse_to_delete
            cls.__getstate__, cls.__setstate__ = _state, _set_state
            cls.__dataclass_params__.frozen = True
            if eq:
                cls.__eq__, cls.__hash__ = _comparison([field.name for field in fields if field.compare])
            if repr and "__repr__" not in vars(plain):
                cls.__repr__ = _representation([field.name for field in fields if field.repr])
            return cls

        return make


class _Factory:
    """Stands for the default of a field that is made anew for each record."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY: Final = _Factory()


def _constructor(cls: Any, fields: tuple[dataclasses.Field[Any], ...]) -> Any:
    """Writes and compiles `__init__`; like `dataclasses` and `namedtuple` do, from the names of the fields alone."""
    known: dict[str, Any] = {"_factory": _FACTORY}
    arguments: list[str] = []
    body: list[str] = []
    for field in fields:
        name = field.name
        if field.kw_only and "*" not in arguments:
            arguments.append("*")
        known[f"_set_{name}"] = getattr(cls, name).__set__
        value = name
        if field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            arguments.append(f"{name}=_default_{name}")
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            arguments.append(f"{name}=_factory")
            value = f"_make_{name}() if {name} is _factory else {name}"
        else:
            arguments.append(name)
        body.append(f" _set_{name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    exec("\n".join([f"def __init__({', '.join(['self', *arguments])}):", *body, " return None"]), known)
    constructor = known["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    constructor.__module__ = cls.__module__
    constructor.__annotations__ = {field.name: field.type for field in fields}
    return constructor


def _refuse_to_set(_self: Any, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


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
