"""Published weights from the model hub, through huggingface_hub: resumed, kept in its own cache.

Nothing is sent but the request for the file, with the token that huggingface_hub finds in its
usual place (`hf auth login`, or HF_TOKEN). HF_ENDPOINT names a mirror, HF_HUB_CACHE the cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib.catalogue import Entry, SourceFile
from DiffuGTSLib.errors import ModelMissing
from DiffuGTSLib.samples import DownloadFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def fetch(entry: Entry, offline: bool, notify: Notify) -> Fetched:
    """The entry's files, from the hub's cache or, unless `offline`, from the hub.

    Args:
        notify: is told each file.

    Raises:
        ModelMissing: offline, and a file is not in the cache.
        DownloadFailed: the hub cannot be reached, or does not give the file.
    """
    paths = {file.part: _fetch_one(file, offline, notify) for file in entry.files}
    texts = [_fetch_one(file, offline, notify) for file in entry.text_encoder.files]
    folder = _common_folder(texts)
    return Fetched(paths["autoencoder"], paths["denoiser"], folder)


def cached_text_folder(entry: Entry) -> Path | None:
    """Where the hub's cache has the files of the entry's text encoder; None where it has not."""
    from huggingface_hub import try_to_load_from_cache

    files = entry.text_encoder.files
    found = [try_to_load_from_cache(file.repository, file.path) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return _common_folder(paths) if paths and len(paths) == len(files) else None


def by_hand(files: Sequence[SourceFile]) -> str:
    """How to get files without this program, for hints."""
    return " and ".join(file.url for file in files)


def _common_folder(paths: Sequence[Path]) -> Path | None:
    return paths[0].parent if paths else None


def _fetch_one(file: SourceFile, offline: bool, notify: Notify) -> Path:
    # Read when huggingface_hub is first imported: it would add how it is used to each request.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import hf_hub_download

    size = "" if file.megabytes is None else f" ({file.megabytes:,.4g} MB)"
    notify(f"{file.name}{size} from {file.repository}")
    with _plain_failures(file, offline), _quiet():
        return Path(hf_hub_download(file.repository, file.path, local_files_only=offline))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the hub's advice about itself off the console; the progress bar stays."""
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
            raise DownloadFailed("The disk is full.", "Make room and try again.") from None
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
