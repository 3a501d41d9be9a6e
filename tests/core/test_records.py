"""Frozen dataclasses that cost less to make: they are used as any other."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from typing import Any

import pytest

from deepio_core.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A record."""

    name: str
    key: str | None = dataclasses.field(default=None, repr=False)
    values: list[int] = dataclasses.field(default_factory=list)
    seen: int = dataclasses.field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """A record without fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingElse:
    """Another record without fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A record with a single field."""

    content: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A record with positional arguments."""

    left: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handle:
    """A record that is equal to itself only."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A record with a representation of its own."""

    number: int

    def __repr__(self) -> str:
        return f"#{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Silent:
    """A record without representation."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A record that looks at what it gets."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")


def test_equal_when_class_and_fields_are() -> None:
    assert Signal(name="a", values=[1]) == Signal(name="a", values=[1])
    assert Signal(name="a") != Signal(name="b")
    assert Signal(name="a", key="1") != Signal(name="a", key="2")
    assert Nothing() == Nothing()
    assert Signal(name="a", seen=1) == Signal(name="a", seen=2)
    strangers: list[tuple[object, object]] = [
        (Nothing(), NothingElse()),
        (Named(number=1), Silent(number=1)),
        (Pair(1, 2), (1, 2)),
    ]
    assert all(one != other for one, other in strangers)
    assert Box(content=math.nan) == Box(content=math.nan)
    assert Handle(number=1) != Handle(number=1)


def test_as_key() -> None:
    assert {Pair(1, 2): "here"}[Pair(1, 2)] == "here"
    assert len({Nothing(), Nothing(), NothingElse()}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Signal(name="a"))


def test_representation() -> None:
    assert repr(Signal(name="a", key="secret", values=[1])) == "Signal(name='a', values=[1])"
    assert repr(Nothing()) == "Nothing()"
    assert repr(Named(number=1)) == "#1"
    assert repr(Silent(number=1)).startswith("<")


@pytest.mark.parametrize("name", ["name", "anything"])
def test_frozen(name: str) -> None:
    signal: Any = Signal(name="a")
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        setattr(signal, name, "b")
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        delattr(signal, name)
    assert not hasattr(signal, "__dict__")


def test_defaults_are_made_anew_for_each() -> None:
    one, other = Signal(name="a"), Signal(name="a")
    assert one.values == other.values == []
    assert one.values is not other.values


def test_what_comes_after_the_fields_are_set() -> None:
    assert Checked(number=1).number == 1
    with pytest.raises(ValueError, match="negative"):
        Checked(number=-1)
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(Checked(number=1), number=-1)


def test_the_constructor_says_what_it_takes() -> None:
    assert str(inspect.signature(Signal)) == (
        "(*, name: 'str', key: 'str | None' = None, values: 'list[int]' = <factory>, seen: 'int' = 0) -> None"
    )
    with pytest.raises(TypeError, match=r"Pair\.__init__\(\) missing 1 required positional argument: 'right'"):
        Pair(1)  # type: ignore[call-arg]


def test_a_dataclass_to_all_who_ask() -> None:
    signal = Signal(name="a", values=[1])
    assert [field.name for field in dataclasses.fields(Signal)] == ["name", "key", "values", "seen"]
    assert dataclasses.replace(signal, name="b") == Signal(name="b", values=[1])
    assert dataclasses.asdict(signal) == {"name": "a", "key": None, "values": [1], "seen": 0}
    assert copy.deepcopy(signal) == signal
    assert copy.copy(signal) == signal
    assert pickle.loads(pickle.dumps(Pair(1, 2))) == Pair(1, 2)
    match Pair(1, 2):
        case Pair(left, right):
            assert (left, right) == (1, 2)
    with pytest.raises(TypeError):
        Signal("a")  # type: ignore[call-arg]
