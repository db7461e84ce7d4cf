"""The command `diffugts data`: what a folder of public data holds, and what is wrong with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from DiffuGTSLib.cli_base import JsonOption, own_stdout, plain_errors, print_json

_SECONDS_BETWEEN_LINES = 15.0  # where stderr is a file and not a terminal

data = typer.Typer(no_args_is_help=True, help="Look at data sets before they are used.",
                   rich_markup_mode=None)


@data.callback()
def _commands() -> None:
    """Makes `check` a command of its own, also while it is the only one."""


@data.command()
@plain_errors
def check(
    folder: Annotated[Path, typer.Argument(
        help="Decathlon, KiTS23 or BraTS23 folder as published, a CASES.json, or a training "
             "folder with a manifest.json.")],
    as_json: JsonOption = False,
) -> None:
    """Tell what a data set holds and what is wrong with it; ends with 1 if a case is unusable."""
    with own_stdout(as_json) as out:
        from rich.console import Console
        from rich.progress import Progress

        from DiffuGTSLib.datasets import read_dataset
        from DiffuGTSLib.datasets.check import check as examine
        from DiffuGTSLib.datasets.manifest import check_manifest, is_manifest
        from DiffuGTSLib.datasets.report import lines

        console = Console(stderr=True)
        told = time.monotonic()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("checking")

            def tell(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                nonlocal told
                if not console.is_terminal and time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                    told = time.monotonic()
                    console.print(f"{done} of {total} cases")

            report = (check_manifest(folder, tell) if is_manifest(folder)
                      else examine(read_dataset(folder), tell))
        if as_json:
            print_json(report.as_dict(), out)
        else:
            print("\n".join(lines(report)), file=out)
    if not report.usable:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds `data` to the commands of `app`."""
    app.add_typer(data, name="data")
