"""What a command shows while it runs: a live table on a terminal, a line now and then elsewhere, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Rows", "print_json", "show", "table"]

Rows = Mapping[str, str]
"""What there is to show: names and values."""

REFRESH: Final = 0.25
"""Seconds between two looks, on a terminal."""

LINE_EVERY: Final = 5.0
"""Seconds between two lines, elsewhere."""


def print_json(value: object) -> None:
    """Print one JSON value as a line, at once."""
    print(json.dumps(value), flush=True)  # in ASCII: a result may hold a lone surrogate


def table(title: str, rows: Rows) -> Table:
    """A table of names and values."""
    # What comes from elsewhere, such as the name of a file, is no markup.
    made = Table(title=Text(title, "table.title"), title_justify="left", show_header=False, min_width=48)
    made.add_column(style="bold")
    made.add_column()
    for name, value in rows.items():
        made.add_row(name, Text(value))
    return made


@asynccontextmanager
async def show(title: str, rows: Callable[[], Rows], *, quiet: bool = False) -> AsyncGenerator[None]:
    """Show the rows for as long as the block lasts, on stderr; stdout belongs to results.

    Args:
        title: What is shown.
        rows: Gives the rows of the moment.
        quiet: Show nothing.
    """
    console = Console(stderr=True)
    if quiet:
        yield
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_show_live if console.is_terminal else _show_lines, console, title, rows)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


async def _show_live(console: Console, title: str, rows: Callable[[], Rows]) -> None:
    with Live(table(title, rows()), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(table(title, rows()), refresh=True)
            await anyio.sleep(REFRESH)


async def _show_lines(_console: Console, title: str, rows: Callable[[], Rows]) -> None:
    while True:
        await anyio.sleep(LINE_EVERY)
        line = ", ".join(f"{name} {value}" for name, value in rows().items())
        print(f"{title}: {line}", file=sys.stderr, flush=True)
