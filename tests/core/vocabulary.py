"""What every dataclass that goes into a machine, or comes out, has to be."""

import ast
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


def dataclasses_of(module: ModuleType) -> list[type]:
    """The dataclasses that a module defines."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__
    ]


def undocumented_fields(module: ModuleType) -> Iterator[str]:
    """The fields of the dataclasses of a module that no docstring follows."""
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and not (
                isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                yield f"{node.name}.{ast.unparse(statement.target)}"


def check_dataclass(kind: type) -> None:
    """Frozen, slotted, keyword-only, documented."""
    # The dataclass itself says nothing of slots: its instances have no __dict__, and no new attribute.
    instance: Any = object.__new__(kind)
    assert not hasattr(instance, "__dict__"), f"{kind.__name__} is not slotted"
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        instance.anything = 1
    assert all(field.kw_only for field in dataclasses.fields(kind)), f"{kind.__name__} takes positional arguments"
    assert typing.cast("Any", kind).__dataclass_params__.frozen
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), f"{kind.__name__} has no docstring of its own"
