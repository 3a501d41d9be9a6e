"""Runs a command: signals, errors, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

__all__ = ["EXIT_FAILED", "run"]

Ts = TypeVarTuple("Ts")

EXIT_FAILED = 1
"""The work could not be done, or brought no result. 2 is for wrong options, as everywhere."""

EXIT_INTERRUPTED = 130
"""Ctrl-C before there was anything to end; shells count so."""


def run(work: Callable[[*Ts], Awaitable[int]], *args: *Ts) -> None:
    """Run the work in an event loop and exit with its code.

    Work that lasts is cancelled by Ctrl-C and SIGTERM, says goodbye, and reports as at its end. An error is told as its
    message and remedy, without a traceback.
    """
    import anyio

    from deepio_adapters.groups import unwrapped
    from deepio_core.errors import DeepIOError

    code = EXIT_FAILED
    try:
        with unwrapped():
            code = anyio.run(work, *args)
    except DeepIOError as error:
        print(f"deepio: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; nothing is left to be told.
        sys.stderr.close()
    except OSError as error:
        # What we write ends up on a full disk; all that has to do with networks is a DeepIOError.
        print(f"deepio: {error}", file=sys.stderr)
    sys.exit(code)
