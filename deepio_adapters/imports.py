"""The lock under which heavy libraries are imported when they are needed.

The engine room imports aiortc while the application may be about to open a source, and both import PyAV, whose modules
import each other in circles: two threads that meet in there get modules that are only half made.
"""

from __future__ import annotations

import threading

__all__ = ["import_lock"]

import_lock = threading.RLock()
"""Held by whoever imports what imports PyAV, outside of the beginning of a module."""
