"""The commands `diffugts models ...`: list, show, download, convert, verify, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from DiffuGTSLib.cli.common import JsonOption, own_stdout, plain_errors, print_json

if TYPE_CHECKING:
    from DiffuGTSLib.models.catalogue import Entry

models = typer.Typer(help="List, show, install, check and remove models.",
                     no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name in the catalogue, as `list` shows it.")]


def register(app: typer.Typer) -> None:
    """Adds `models` to the command line."""
    app.add_typer(models, name="models")


@models.command("list")
@plain_errors
def list_models(as_json: JsonOption = False) -> None:
    """Show every model: installed or not, its size, its licence, whether it can segment."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.models.store import describe_models

        document = describe_models()
        if as_json:
            print_json(document, out)
        else:
            _print_table(document, out)


@models.command()
@plain_errors
def show(
    model: Annotated[str, typer.Argument(help="Name or folder of an installed model.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a model states of itself: data, lesion classes, scores, licence."""
    with own_stdout(as_json) as out:
        from dataclasses import asdict

        from DiffuGTSLib.models import Card, find

        folder = find(model)
        card = Card.read(folder)
        if as_json:
            print_json(asdict(card) | {"folder": str(folder.absolute())}, out)
        else:
            print(f"Model: {card.name}", file=out)
            for name, text in card.statements().items():
                print(f"{name}: {text}", file=out)
            print(f"Folder: {folder.absolute()}", file=out)
            print("Research use only, not for clinical decisions.", file=out)


@models.command()
@plain_errors
def download(
    name: Name,
    accept_licence: Annotated[bool, typer.Option(
        "--accept-licence", help="You have read the licence and accept it.")] = False,
    offline: Annotated[bool, typer.Option(
        "--offline", help="Use only what is in the hub's cache on this machine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the published weights and convert them, after you have accepted their licence."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.files import store_folder
        from DiffuGTSLib.models import entry as catalogue_entry
        from DiffuGTSLib.models import installed

        entry = catalogue_entry(name)
        if entry.bundled or name in installed():
            folder = None if entry.bundled else store_folder() / name
            _print_outcome(_outcome(name, folder, "It is installed already."), as_json, out)
            return
        _require_acceptance(entry, accept_licence)
        from DiffuGTSLib.models.install import check_disk_space, fetch, install
        from DiffuGTSLib.models.store import check_free

        check_free(store_folder() / name)
        check_disk_space(entry, store_folder() / name)
        files = fetch(entry, offline, _note)
        folder = install(entry, files, None, _note)
        _print_outcome(_outcome(name, folder, _needs_training(name)), as_json, out)


@models.command()
@plain_errors
def convert(
    files: Annotated[list[Path], typer.Argument(
        help="The published .pt files of autoencoder and denoiser, in any order.")],
    model: Annotated[str | None, typer.Option(
        help="Name in the catalogue; by the files' names if not given.")] = None,
    text_encoder: Annotated[str | None, typer.Option(
        help="Folder with the text encoder's files, or: installed. "
             "From the hub's cache if not given.")] = None,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", help="Folder of the package; a folder in the store if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert published weights that were fetched by hand into an installed model."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.models.install import install, match_files
        from DiffuGTSLib.models.store import check_free

        if output is not None:
            check_free(output)
        entry, found = match_files(files, model, text_encoder)
        _note(f"{entry.title}; licence: {entry.licence.name}, {entry.licence.url}")
        folder = install(entry, found, output, _note)
        known = entry.name if output is None else str(output)
        _print_outcome(_outcome(entry.name, folder, _needs_training(known)), as_json, out)


@models.command()
@plain_errors
def verify(
    names: Annotated[list[str] | None, typer.Argument(
        help="Names or folders; all installed models if none is given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every file of a model with the hash that was recorded when it was made."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.models import installed
        from DiffuGTSLib.models.catalogue import EMBEDDED

        rows = [_verified(name) for name in names or [EMBEDDED, *installed()]]
        if as_json:
            print_json({"models": rows}, out)
        else:
            for row in rows:
                print(f"{row['name']}: {row['message']}", file=out)
                if row["hint"]:
                    print(f"Hint: {row['hint']}", file=out)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@models.command()
@plain_errors
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option(
        "--yes", help="Also remove a trained attention.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete an installed model."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.errors import OutputNotWritten
        from DiffuGTSLib.files import store_folder
        from DiffuGTSLib.models.store import has_attention
        from DiffuGTSLib.models.store import remove as remove_model

        if has_attention(store_folder() / name) and not yes and not _confirmed(
            f"The trained attention in {name} is lost with it. Remove it?"
        ):
            raise OutputNotWritten(f"{name} holds a trained attention and was not removed.",
                                   "Add --yes to remove it nevertheless.")
        remove_model(name)
        if as_json:
            print_json({"name": name, "removed": True}, out)
        else:
            print(f"{name} is removed.", file=out)


def _verified(name: str) -> dict[str, Any]:
    from DiffuGTSLib.errors import ModelDamaged
    from DiffuGTSLib.models import find, verify
    from DiffuGTSLib.models.store import read_card

    folder = find(name)
    row = {"name": name, "folder": str(folder.absolute())}
    try:
        verify(folder)
        count = len(read_card(folder)["files"])
    except (ModelDamaged, KeyError) as error:
        message = getattr(error, "message", "The model package is damaged: it lists no files.")
        return row | {"ok": False, "message": message, "hint": _repair_hint(name)}
    return row | {"ok": True, "message": f"undamaged ({count} files)", "hint": ""}


def _repair_hint(name: str) -> str:
    """How to repair a damaged model."""
    from DiffuGTSLib.models import installed
    from DiffuGTSLib.models.catalogue import catalogue

    known = catalogue().get(name)
    if name in installed() and known is not None and not known.bundled:
        return (f"Run: diffugts models remove {name}, then: diffugts models download {name} "
                "(or convert).")
    if known is not None:
        return "Install the program again."
    return "Copy the model from its source, or train it again."


def _require_acceptance(entry: Entry, accepted: bool) -> None:
    """Shows the licence, and asks for its acceptance unless it was given as an option.

    Raises:
        LicenceNotAccepted: no.
    """
    from DiffuGTSLib.errors import LicenceNotAccepted

    licence = entry.licence
    lines = [f"{entry.title}: {licence.name}", f"  {licence.summary}", f"  {licence.url}"]
    if entry.text_encoder.files:
        texts = entry.text_encoder
        lines.append(f"Its text encoder, {texts.title}: {texts.licence.name}, {texts.licence.url}")
    lines.append("Research use only, not for clinical decisions.")
    for line in lines:
        _note(line)
    if not accepted and not _confirmed("Have you read the licence, and do you accept it?"):
        raise LicenceNotAccepted(
            f"The licence of {entry.name} ({licence.name}) has not been accepted.",
            f"Read {licence.url}, then add --accept-licence.",
        )


def _confirmed(question: str) -> bool:
    """Asks on the terminal; without one, the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(question, err=True)


def _outcome(name: str, folder: Path | None, message: str) -> dict[str, Any]:
    from DiffuGTSLib.models import find
    from DiffuGTSLib.models.store import has_attention, size

    found = folder or find(name)
    return {"name": name, "folder": str(found.absolute()), "bytes": size(found),
            "attention": "trained" if has_attention(found) else "none", "message": message}


def _needs_training(model: str) -> str:
    from DiffuGTSLib.errors import AttentionMissing

    return (f"Installed. Its attention has to be trained before it can segment: "
            f"{AttentionMissing(model).hint.removeprefix('Train it: ')}")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_outcome(outcome: dict[str, Any], as_json: bool, out: TextIO) -> None:
    if as_json:
        print_json(outcome, out)
    else:
        print(f"{outcome['name']}: {outcome['message']}", file=out)
        print(f"Folder: {outcome['folder']}", file=out)


def _print_table(document: dict[str, Any], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("model", "for", "state", "size", "licence", "attention"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for model in document["models"]:
        bundled = "included" if model["bundled"] else "installed"
        state = model["state"] if model["state"] == "damaged" else (
            bundled if model["installed"] else "not installed")
        table.add_row(model["name"], " ".join(model["modalities"]), state, _size(model),
                      model["licence"]["name"], model["attention"])
    console = Console(file=out, highlight=False, markup=False)
    console.print(table)
    print(f"Installed models are kept in {document['folder']}", file=out)
    print("Sizes marked ~ are computed. Research use only, not for clinical decisions.", file=out)


def _size(model: dict[str, Any]) -> str:
    if model["bytes"] is not None:
        return f"{model['bytes'] / 1e6:,.0f} MB"
    expected = model["expected_bytes"]
    return "" if expected is None else f"~{expected / 1e6:,.0f} MB"
