"""`deepio_core` is pure: what it imports, what importing it loads, and which builtins it may not call.

The import contract in pyproject.toml says the same about single modules; this is the whole list.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "deepio_core"
MODULES = sorted(CORE.rglob("*.py"))

ALLOWED = {
    "__future__",
    "abc",
    "base64",
    "bisect",
    "collections",
    "collections.abc",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "string",
    "struct",
    "types",
    "typing",
    "unicodedata",
    "urllib.parse",
}
# The simulator draws from `random.Random(seed)`; the functions of the module share hidden state and stay out.
ALLOWED_TO_TESTING = {"random"}

FORBIDDEN_BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"}

# None of these may be loaded by importing the core, not even by way of an innocent module.
NEVER_LOADED = {
    "_socket",
    "_ssl",
    "aiortc",
    "anyio",
    "asyncio",
    "av",
    "concurrent",
    "ctypes",
    "datetime",
    "http",
    "logging",
    "multiprocessing",
    "numpy",
    "queue",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "trio",
    "uuid",
    "websockets",
}


def is_testing(path: Path) -> bool:
    """Tell whether a module belongs to the testing kit, be that one file or a package."""
    return path.relative_to(CORE).parts[0] in {"testing.py", "testing"}


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that the code imports, at whatever depth, with the line that does it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module, node.lineno


def module_id(path: Path) -> str:
    return str(path.relative_to(CORE))


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_only_listed_modules(path: Path) -> None:
    allowed = ALLOWED | ALLOWED_TO_TESTING if is_testing(path) else ALLOWED
    strangers = [
        f"line {line}: {name}"
        for name, line in imported_modules(ast.parse(path.read_text("utf-8")))
        if name not in allowed and name.partition(".")[0] != "deepio_core"
    ]
    assert not strangers, f"{module_id(path)} imports what is not on the list of the core: {strangers}"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_calls_no_builtin_that_reaches_outside(path: Path) -> None:
    calls = [
        f"line {node.lineno}: {node.func.id}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_BUILTINS
    ]
    assert not calls, f"{module_id(path)} reaches outside: {calls}"


@pytest.mark.parametrize("path", [path for path in MODULES if is_testing(path)], ids=module_id)
def test_testing_kit_takes_its_randomness_from_a_seed(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    unseeded = [
        f"line {node.lineno}: random.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr != "Random"
    ]
    unseeded += [
        f"line {node.lineno}: from random import {alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "random"
        for alias in node.names
        if alias.name != "Random"
    ]
    unseeded += [
        f"line {node.lineno}: Random() without a seed"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"random.Random", "Random"}
        and not (node.args or node.keywords)
    ]
    assert not unseeded, f"{module_id(path)} draws from hidden state: {unseeded}"


def loaded_by(modules: list[str]) -> set[str]:
    """The modules that a fresh interpreter holds once it has imported these, beyond those it starts with."""
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {', '.join(modules)}\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    # Isolated and without `site`: neither the environment nor a .pth file loads anything but what we ask for.
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_importing_it_loads_no_event_loop_socket_or_thread() -> None:
    # Every module, because the package itself may import some of them only when they are asked for.
    loaded = loaded_by([dotted(path) for path in MODULES])
    assert "deepio_core" in loaded
    assert not {name for name in loaded if name.partition(".")[0] in NEVER_LOADED}


def test_importing_it_does_not_load_the_simulator() -> None:
    assert "random" not in loaded_by(["deepio_core"])
