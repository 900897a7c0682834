"""The `inkwash` command. Nothing here computes: each command calls the library and shows what it says."""

from __future__ import annotations

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command with these arguments (by default the process's own), and exit with its status."""
    from inkwash.cli.app import run

    raise SystemExit(run(args))
