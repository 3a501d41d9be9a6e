"""Every package exports what it says, in order, and documents it."""

import ast
import importlib
import inspect
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["deepio_adapters", "deepio_asyncio", "deepio_cli", "deepio_core", "deepio_server", "deepio_trio"]


def exports() -> list[tuple[str, str]]:
    # A package without __all__ has nothing to go through here, and fails the test of its order below.
    return [(name, export) for name in PACKAGES for export in getattr(importlib.import_module(name), "__all__", ())]


@cache
def documented_assignments() -> frozenset[str]:
    """Names assigned at the top of a module with a docstring literal below the assignment.

    That is how constants and type aliases are documented: at run time they carry none of their own.
    """
    names: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        body = ast.parse(path.read_text("utf-8")).body
        for statement, following in pairwise(body):
            if not (
                isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                continue
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [statement.target]
                if isinstance(statement, ast.AnnAssign)
                else []
            )
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_free_of_repetition(package: str) -> None:
    exported = importlib.import_module(package).__all__
    assert list(exported) == sorted(set(exported))


@pytest.mark.parametrize("package", PACKAGES)
def test_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_a_docstring(package: str) -> None:
    assert importlib.import_module(package).__doc__


@pytest.mark.parametrize(("package", "name"), exports())
def test_exists_and_has_a_docstring(package: str, name: str) -> None:
    value = getattr(importlib.import_module(package), name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        # Its own, not inherited; and not the signature that `dataclass` writes where there is none.
        own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own, f"{package}.{name} has no docstring"
        assert not own.startswith(f"{name}("), f"{package}.{name} has no docstring of its own"
    else:
        assert name in documented_assignments(), f"{package}.{name} has no docstring under its assignment"
