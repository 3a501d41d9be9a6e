"""How heavy libraries are imported when they are needed: one thread at a time, and without what they do not need.

The engine room imports aiortc while the application may be about to open a source, and both import PyAV, whose modules
import each other in circles: two threads that meet in there get modules that are only half made.
"""

from __future__ import annotations

import importlib
import sys
import threading
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["PutOff", "import_lock", "put_off"]

import_lock = threading.RLock()
"""Held by whoever imports what imports PyAV, outside of the beginning of a module."""


class PutOff(ModuleType):
    """Stands in for a module: what it knows nothing of comes from the real one, which is imported for that."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real(), name)

    def __dir__(self) -> list[str]:
        return dir(self._real())

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            sys.modules.pop(self.__name__, None)
        return importlib.import_module(self.__name__)


@contextmanager
def put_off(*stand_ins: PutOff) -> Generator[None]:
    """Has what is imported in the block get these instead of the modules of their names, if those are not loaded.

    For modules that libraries import at once and use seldom or never. Who uses them later does not notice, nor who says
    `from parent import child` later and gets a stand-in, too; who says `import parent.child` gets the real one.
    `importlib.util.LazyLoader` does not help: an import statement is enough to make it load.
    """
    missing = {stand_in.__name__: stand_in for stand_in in stand_ins if stand_in.__name__ not in sys.modules}
    for name, stand_in in missing.items():
        parent, _, child = name.rpartition(".")
        sys.modules[name] = stand_in
        if parent in sys.modules:  # the name by which `import parent.child` is used; the real one will replace it
            setattr(sys.modules[parent], child, stand_in)
    try:
        yield
    finally:
        for name, stand_in in missing.items():
            if sys.modules.get(name) is stand_in:
                sys.modules.pop(name, None)
