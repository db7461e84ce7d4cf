"""The command `diffugts data`: what a folder of public data holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from DiffuGTSLib.cli_base import JsonOption, own_stdout, plain_errors, print_json

data = typer.Typer(no_args_is_help=True, help="Look at data sets before they are used.",
                   rich_markup_mode=None)


@data.callback()
def _commands() -> None:
    """Makes `check` a command of its own, also while it is the only one."""


@data.command()
@plain_errors
def check(
    folder: Annotated[Path, typer.Argument(
        help="Decathlon, KiTS23 or BraTS23 folder as published, or a CASES.json.")],
    as_json: JsonOption = False,
) -> None:
    """Tell what a data set holds and what is wrong with it; ends with 1 if a case is unusable."""
    with own_stdout(as_json) as out:
        from rich.console import Console
        from rich.progress import Progress

        from DiffuGTSLib.datasets import read_dataset
        from DiffuGTSLib.datasets.check import check as examine
        from DiffuGTSLib.datasets.check import lines

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("checking")
            report = examine(read_dataset(folder), lambda done, total: bar.update(
                task, completed=done, total=total))
        if as_json:
            print_json(report.as_dict(), out)
        else:
            print("\n".join(lines(report)), file=out)
    if not report.usable:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds `data` to the commands of `app`."""
    app.add_typer(data, name="data")
