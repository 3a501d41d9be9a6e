"""The `deepio` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; says what to install if the command's own libraries are missing."""
    try:
        from deepio_cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit(f"The deepio command needs {error.name}. Install it: pip install 'deep-io-py[all]'")
    app()


if __name__ == "__main__":
    main()
