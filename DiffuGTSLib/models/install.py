"""Installing a model: fetch the published files or match those given, then convert them.

Files come from the model hub through huggingface_hub, which resumes downloads and has a cache of
its own. Nothing is sent but the request for the file, with the token that huggingface_hub finds
(`hf auth login`, or HF_TOKEN). HF_ENDPOINT names a mirror, HF_HUB_CACHE the cache.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib.errors import DownloadFailed, ModelMissing, OutputNotWritten
from DiffuGTSLib.files import MODELS_VARIABLE, atomic_folder, store_folder
from DiffuGTSLib.models.catalogue import Entry, SourceFile, catalogue
from DiffuGTSLib.models.catalogue import entry as catalogue_entry
from DiffuGTSLib.models.store import check_free

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALLED = "installed"
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """The files of a catalogue entry on this machine.

    Attributes:
        text_folder: of the text encoder's files; None where it is installed with the program.
    """

    autoencoder: Path
    denoiser: Path
    text_folder: Path | None


def install(entry: Entry, files: Fetched, folder: Path | None, notify: Notify) -> Path:
    """Converts fetched files into a model package.

    Args:
        folder: of the package; None for its folder in the store.

    Returns:
        The package's folder.

    Raises:
        OutputNotWritten: the folder exists already, or the disk has too little space.
        ModelDamaged: a file does not fit; nothing is left then.
    """
    target = folder or store_folder() / entry.name
    check_free(target)
    check_disk_space(entry, target)
    with atomic_folder(target, f"Set {MODELS_VARIABLE} to a folder of yours.") as building:
        from DiffuGTSLib.models.convert import convert

        convert(entry, files.autoencoder, files.denoiser, files.text_folder, building, notify)
    return target


def check_disk_space(entry: Entry, target: Path) -> None:
    """Raises OutputNotWritten where the disk has too little space for the package."""
    existing = next(p for p in (target, *target.absolute().parents) if p.exists())
    free, need = shutil.disk_usage(existing).free, entry.expected_bytes or 0
    if free < need:
        raise OutputNotWritten(
            f"The model needs {need / 1e9:.1f} GB of disk space; {free / 1e9:.1f} GB are free.",
            f"Free some space, or set {MODELS_VARIABLE} to a folder on another disk.",
        )


def fetch(entry: Entry, offline: bool, notify: Notify) -> Fetched:
    """The entry's files, from the hub's cache or, unless `offline`, from the hub.

    Args:
        notify: called with the name of each file.

    Raises:
        ModelMissing: offline, and a file is not in the cache.
        DownloadFailed: the hub cannot be reached, or does not give the file.
    """
    paths = {file.part: _fetch_one(file, offline, notify) for file in entry.files}
    texts = [_fetch_one(file, offline, notify) for file in entry.text_encoder.files]
    folder = _common_folder(texts)
    return Fetched(paths["autoencoder"], paths["denoiser"], folder)


def _common_folder(paths: Sequence[Path]) -> Path | None:
    return paths[0].parent if paths else None


def _fetch_one(file: SourceFile, offline: bool, notify: Notify) -> Path:
    # Before the first import of huggingface_hub, which else adds usage data to each request.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import hf_hub_download

    size = "" if file.megabytes is None else f" ({file.megabytes:,.4g} MB)"
    notify(f"{file.name}{size} from {file.repository}")
    with _plain_failures(file, offline), _quiet():
        return Path(hf_hub_download(file.repository, file.path, local_files_only=offline))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the hub's own messages off the console; the progress bar stays."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _plain_failures(file: SourceFile, offline: bool) -> Iterator[None]:
    """What huggingface_hub raises, in plain sentences.

    Raises:
        ModelMissing, DownloadFailed: see `fetch`.
    """
    from huggingface_hub import errors

    try:
        yield
    except (errors.GatedRepoError, errors.LocalTokenNotFoundError):
        raise _refused(file) from None
    except errors.LocalEntryNotFoundError:
        if offline:
            raise ModelMissing(
                f"{file.name} is not in the hub's cache on this machine.",
                f"Run it without --offline, or fetch {file.url} by hand and use "
                "diffugts models convert.",
            ) from None
        raise _unreachable(file) from None
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError,
            errors.RevisionNotFoundError):
        raise DownloadFailed(
            f"The hub has no {file.path} in {file.repository}, or hides it.",
            f"Look at {file.page}; it may ask you to log in (hf auth login).",
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            raise _refused(file) from None
        raise DownloadFailed(f"The hub answered {file.name} with an error ({status}).",
                             "Try again later; what was fetched is kept.") from None
    except OSError as error:
        if error.errno == 28:
            raise DownloadFailed("The disk is full.", "Free some space and try again.") from None
        raise _unreachable(file) from None
    except Exception as error:
        # The hub's network errors have no base class that is its own.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise _unreachable(file) from None
        raise


def _refused(file: SourceFile) -> DownloadFailed:
    return DownloadFailed(
        f"The hub does not give {file.name} to this account.",
        f"Accept the licence on {file.page}, log in with: hf auth login, and try again.",
    )


def _unreachable(file: SourceFile) -> DownloadFailed:
    return DownloadFailed(
        f"{file.name} could not be fetched from the hub.",
        f"Check the network or the proxy and try again: it goes on where it stopped. Or fetch "
        f"{file.url} by hand and use diffugts models convert.",
    )


def match_files(
    files: Sequence[Path], model: str | None, texts: str | None
) -> tuple[Entry, Fetched]:
    """The model that given files belong to, and which of them holds what.

    The denoiser's file is the one with a `scale_factor`. The model is identified by that file's
    name, unless it is specified.

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
    from DiffuGTSLib.models.convert import read_checkpoint

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
    known = ", ".join(name for name, entry in catalogue().items() if entry.files)
    raise ModelMissing(
        "Which model the files belong to is not clear from their names.",
        f"Specify it: --model with one of {known}.",
    )


def _text_folder(entry: Entry, source: str | None) -> Path | None:
    if source == INSTALLED or not entry.text_encoder.files:
        return None
    folder = Path(source) if source else cached_text_folder(entry)
    if folder is None or not folder.is_dir():
        missing = f"is not at {Path(source).name}" if source else "is not in the hub's cache"
        raise ModelMissing(
            f"The text encoder {entry.text_encoder.title} {missing}.",
            f"Fetch {addresses_of(entry.text_encoder.files)} into a folder and pass it with "
            f"--text-encoder, or take the one that comes with the program: --text-encoder "
            f"{INSTALLED}.",
        )
    return folder


def cached_text_folder(entry: Entry) -> Path | None:
    """The folder of the entry's text encoder in the hub's cache; None where it is not complete."""
    from huggingface_hub import try_to_load_from_cache

    files = entry.text_encoder.files
    found = [try_to_load_from_cache(file.repository, file.path) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return _common_folder(paths) if paths and len(paths) == len(files) else None


def addresses_of(files: Sequence[SourceFile]) -> str:
    """Where a browser fetches the files, for hints."""
    return " and ".join(file.url for file in files)
