"""The command `diffugts`."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command on sys.argv; its packages are imported only here."""
    from DiffuGTSLib.cli.app import main as run

    run()
