"""Published weights to an installed model: which file is which, then conversion into the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from DiffuGTSLib.catalogue import Entry, SourceFile, catalogue
from DiffuGTSLib.catalogue import entry as catalogue_entry
from DiffuGTSLib.download import Fetched, by_hand, cached_text_folder
from DiffuGTSLib.errors import ModelMissing, OutputNotWritten
from DiffuGTSLib.store import VARIABLE, check_free, store_folder
from DiffuGTSLib.whole_folder import whole_folder

INSTALLED = "installed"
Notify = Callable[[str], None]


def install(entry: Entry, files: Fetched, folder: Path | None, notify: Notify) -> Path:
    """Converts fetched files into a model package.

    Args:
        folder: of the package; None for its place in the store.

    Returns:
        The package's folder.

    Raises:
        OutputNotWritten: the folder is there already, or there is no room.
        ModelDamaged: a file is not what it should be; nothing is left then.
    """
    target = folder or store_folder() / entry.name
    check_free(target)
    check_room(entry, target)
    with whole_folder(target, f"Set {VARIABLE} to a folder of yours.") as building:
        from DiffuGTSLib.foundation.conversion import convert

        convert(entry, files.autoencoder, files.denoiser, files.text_folder, building, notify)
    return target


def check_room(entry: Entry, target: Path) -> None:
    """Raises OutputNotWritten where the package would not fit on the disk."""
    there = next(p for p in (target, *target.absolute().parents) if p.exists())
    free, need = shutil.disk_usage(there).free, entry.expected_bytes or 0
    if free < need:
        raise OutputNotWritten(
            f"The model needs {need / 1e9:.1f} GB of disk space; {free / 1e9:.1f} GB are free.",
            "Make room, or set DIFFUGTS_MODELS to a folder on another disk.",
        )


def sort_out(files: Sequence[Path], model: str | None, texts: str | None) -> tuple[Entry, Fetched]:
    """Which model files fetched by hand belong to, and which of them holds what.

    The denoiser's file is the one with a `scale_factor`. The model is known by that file's name,
    unless it is told.

    Args:
        files: two checkpoints, in any order.
        model: name in the catalogue; None goes by the names of the files.
        texts: folder of the text encoder's files; "installed" takes the one that comes with the
            program; None looks into the hub's cache.

    Raises:
        ModelMissing: a file is not there or none is the denoiser's or the autoencoder's; the model
            is not known; the text encoder is nowhere.
        ModelDamaged: a file is no checkpoint.
    """
    from DiffuGTSLib.foundation.checkpoint import read_checkpoint

    for path in files:
        if not path.is_file():
            raise ModelMissing(f"There is no file {path.name}.", "Check the name and the folder.")
    entry = catalogue_entry(model) if model else _entry_of(files)
    if entry.bundled:
        raise ModelMissing(f"The model “{entry.name}” comes with the program.",
                           "There is nothing to convert.")
    scaled = {path: "scale_factor" in read_checkpoint(path) for path in files}
    found = {}
    for part, denoises in (("autoencoder", False), ("denoiser", True)):
        paths = [path for path in files if scaled[path] is denoises]
        source = next(file for file in entry.files if file.part == part)
        if len(paths) != 1:
            count = "none" if not paths else f"{len(paths)}"
            raise ModelMissing(
                f"One file has to be the {part} of {entry.name} ({source.name}); {count} of those "
                "given is.", f"Fetch it from {source.url}",
            )
        found[part] = paths[0]
        _refuse_other(paths[0], source, entry)
    folder = _text_folder(entry, texts)
    return entry, Fetched(found["autoencoder"], found["denoiser"], folder)


def _refuse_other(path: Path, wanted: SourceFile, entry: Entry) -> None:
    """The autoencoders of different models have the same keys and shapes; their names differ.

    Raises:
        ModelMissing: the file is published as one of another model; renamed ones pass.
    """
    published = {file.name for known in catalogue().values() for file in known.files}
    if path.name != wanted.name and path.name in published:
        raise ModelMissing(f"{path.name} is of another model; {entry.name} takes {wanted.name}.",
                           f"Fetch it from {wanted.url}")


def _entry_of(files: Sequence[Path]) -> Entry:
    names = {path.name for path in files}
    for entry in catalogue().values():
        if any(file.part == "denoiser" and file.name in names for file in entry.files):
            return entry
    raise ModelMissing(
        "The names of the files do not tell which model they are of.",
        f"State it: --model with one of {', '.join(n for n, e in catalogue().items() if e.files)}.",
    )


def _text_folder(entry: Entry, told: str | None) -> Path | None:
    if told == INSTALLED or not entry.text_encoder.files:
        return None
    folder = Path(told) if told else cached_text_folder(entry)
    if folder is None or not folder.is_dir():
        missing = "is not in the hub's cache" if told is None else f"is not at {Path(told).name}"
        raise ModelMissing(
            f"The text encoder {entry.text_encoder.title} {missing}.",
            f"Fetch {by_hand(entry.text_encoder.files)} into a folder and pass it with "
            f"--text-encoder, or take the one that comes with the program: --text-encoder "
            f"{INSTALLED}.",
        )
    return folder
