"""The commands `diffugts remote`: look at another machine; run there for this one."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from DiffuGTSLib.cli.common import JsonOption, own_stdout, plain_errors, print_json

remote = typer.Typer(help="Compute on another machine, over your own SSH.",
                     no_args_is_help=True, rich_markup_mode=None)


@remote.command()
@plain_errors
def check(
    host: Annotated[str, typer.Argument(
        help="A name of ~/.ssh/config, or user@host; with :PROGRAM for the path of diffugts there.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what is on another machine: version, devices with free memory, models."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.remote.check import look_at

        def report(stage: str) -> None:
            print(f"{stage} ...", file=sys.stderr, flush=True)

        found = look_at(host, report)
        if as_json:
            print_json(found, out)
        else:
            print(_as_text(found), file=out)
    if not found["healthy"]:
        raise typer.Exit(1)


def _as_text(found: dict[str, Any]) -> str:
    """What `look_at` found, in lines."""
    lines = [f"{found['host']} has DiffuGTS {found['version']}."]
    for each in found["findings"]:
        if each["state"] != "ok" or each["name"] in found["devices"]:
            lines.append(f"{each['state']:<8} {each['name']}: {each['found']}")
        if each["state"] == "missing":
            lines.append(f"{'':<8} -> {each['advice']}")
    models = [each["name"] for each in found["models"] if each["ready"]]
    lines.append(f"Models: {', '.join(models) or 'none'}")
    lines.append(f'Use it: diffugts segment SCAN -p "liver tumor" -o MASK --host {found["host"]}')
    return "\n".join(lines)


@remote.command(hidden=True)
def relay() -> None:
    """Run for another machine, on stdin and stdout; started there by --host, over SSH."""
    from DiffuGTSLib.remote.relay import run_relay

    raise typer.Exit(run_relay())


def register(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.add_typer(remote, name="remote")
