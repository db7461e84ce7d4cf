"""What can go wrong, one class a kind: a code, a sentence for a clinician, a hint what to do.

`explain` turns any other exception into one of them. Only the standard library is imported here:
the panel's process and `diffugts --help` do without torch.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import traceback
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What torch's allocator, C++ and the libraries of GPU and CPU say, as plain RuntimeErrors.
_MEMORY_PHRASES = ("can't allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED",
                   "unable to find an engine", "Unable to find a valid cuDNN",
                   "could not create a primitive", "could not create a memory")
# oneDNN's word for what it has no code for, whatever the memory.
_UNSUPPORTED = "could not create a primitive descriptor"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
# What a terminal would obey: colours and titles by their codes, then single characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")


def plain_text(text: str) -> str:
    """A text from a file, a name or a catalogue as one line that a terminal only shows.

    Escape codes, control and formatting characters go; bytes that were no UTF-8 become "?".
    """
    kinds = {c: unicodedata.category(c) for c in set(text)}
    kept = _ESCAPES.sub("", text) if "\x1b" in kinds else text
    if not {"Cc", "Cf", "Cs"} & set(kinds.values()):
        return kept
    spaced = "".join(" " if c in "\t\r\n" else "?" if kinds[c] == "Cs" else c for c in kept)
    return "".join(c for c in spaced if c == " " or kinds.get(c, "") not in ("Cc", "Cf"))


def plain_values(value: Any) -> Any:
    """What a JSON document holds, with `plain_text` for all its texts, keys aside."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, list):
        return [plain_values(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    return value


class DiffuGTSError(Exception):
    """Base of all errors that DiffuGTS raises on purpose.

    Attributes:
        code: short and stable, for programs.
        message: one sentence for a person; names no patient and no full path.
        hint: what to do about it; may be empty.
    """

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = plain_text(message)
        self.hint = plain_text(hint)
        super().__init__(self.message)


class UnreadableImage(DiffuGTSError):
    """The file or folder cannot be read as an image."""

    code = "unreadable-image"


class NotAScalarVolume(DiffuGTSError):
    """An image, but not one 3D volume of one number a voxel."""

    code = "not-a-scalar-volume"


class NotFinite(DiffuGTSError):
    """The scan holds NaN or infinite values."""

    code = "not-finite"


class ResultNotFinite(DiffuGTSError):
    """The networks gave values that are not numbers; that is no result."""

    code = "result-not-finite"

    def __init__(self) -> None:
        super().__init__("The networks gave values that are not numbers, so there is no result.",
                         "Check the scan's values, and the model: diffugts models verify.")


class NoContent(DiffuGTSError):
    """The scan is empty, has the same value everywhere, or two values only, as a mask has."""

    code = "no-content"


class TooSmall(DiffuGTSError):
    """The scan has too few voxels or covers too little for the model."""

    code = "too-small"


class TooLarge(DiffuGTSError):
    """The scan does not fit into this machine; the message names the need and what is there."""

    code = "too-large"


class ModalityMismatch(DiffuGTSError):
    """The scan's modality is not one that the model, or the given option, fits."""

    code = "modality-mismatch"


class PromptNotUnderstood(DiffuGTSError):
    """The text names no finding.

    Attributes:
        suggestions: the closest prompts that are understood, best first.
    """

    code = "prompt-not-understood"

    def __init__(self, message: str, hint: str = "", suggestions: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.suggestions = tuple(suggestions)


class ModelMissing(DiffuGTSError):
    """No model package of that name or in that folder."""

    code = "model-missing"


class ModelDamaged(DiffuGTSError):
    """A file of the model package is absent, truncated or not what it should be."""

    code = "model-damaged"


class AttentionMissing(DiffuGTSError):
    """The model's attention (AOVA head) has not been trained; it never runs untrained.

    Args:
        model: its name.
        requested: how the caller named it, where that was not by its name but by its folder.
    """

    code = "attention-missing"

    def __init__(self, model: str, requested: str = "") -> None:
        name = shlex.quote(requested or model)
        super().__init__(
            f"The model “{model}” cannot segment yet: its attention has not been trained.",
            f"Train it: diffugts train attention --config FILE --model {name}",
        )


class SequenceUnknown(DiffuGTSError):
    """The model needs to know the MR sequence, and nothing in the scan states it.

    Attributes:
        suggestions: the sequences that the model knows.
    """

    code = "sequence-unknown"

    def __init__(self, sequence: str, choices: Sequence[str]) -> None:
        known = ", ".join(choices)
        what = (f"The model knows no MR sequence {sequence}." if sequence
                else "Which MR sequence this is cannot be told from the scan.")
        super().__init__(what, f"State it with --sequence: {known}.")
        self.suggestions = tuple(choices)


class InvalidOption(DiffuGTSError):
    """An option of a run has a value that it cannot have.

    Attributes:
        name: of the option.
        expected: what it has to be, for a sentence.
    """

    code = "invalid-option"

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f'The option "{name}" has to be {expected}.')
        self.name = name
        self.expected = expected


class LicenceNotAccepted(DiffuGTSError):
    """The model's licence has to be accepted first."""

    code = "licence-not-accepted"


class OutOfMemory(DiffuGTSError):
    """Memory ran out, also after the automatic fall-backs."""

    code = "out-of-memory"


class BadConfiguration(DiffuGTSError):
    """A configuration file cannot be read, or an entry in it is unknown, missing or wrong."""

    code = "bad-configuration"


class TrainingImpossible(DiffuGTSError):
    """The data or the checkpoint do not fit the requested training."""

    code = "training-impossible"


class BadDataSet(DiffuGTSError):
    """A data set, its list of cases or one of its masks is not what it should be."""

    code = "bad-data-set"


class NotZeroShot(DiffuGTSError):
    """The model was trained on masks of the class, or does not say; no score is zero-shot then."""

    code = "not-zero-shot"


class PackageMissing(DiffuGTSError):
    """An optional Python package is needed for this and is not installed."""

    code = "package-missing"


class OutputNotWritten(DiffuGTSError):
    """A result could not be written; nothing half-written is left."""

    code = "output-not-written"


class WorkerDied(DiffuGTSError):
    """The background process ended without an error message."""

    code = "worker-died"


class Cancelled(DiffuGTSError):
    """The run was cancelled by the caller."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The run was cancelled.")


class DownloadFailed(DiffuGTSError):
    """A sample could not be fetched, or is not the file it should be."""

    code = "download-failed"


class FileNotAccessible(DiffuGTSError):
    """The system does not give access to a file or folder that a run needs."""

    code = "file-not-accessible"


class InternalError(DiffuGTSError):
    """A mistake in the program."""

    code = "internal"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU, whose allocator has no error of its own."""
    # torch's class by its name, since torch is not imported here.
    if isinstance(error, MemoryError) or any(
        kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__
    ):
        return True
    text = str(error)
    return (isinstance(error, RuntimeError) and _UNSUPPORTED not in text
            and any(phrase in text for phrase in _MEMORY_PHRASES))


def _not_accessible(error: OSError) -> FileNotAccessible:
    """What the system says of a file, without the folder, which may name a patient."""
    name = Path(os.fsdecode(error.filename or "")).name
    if error.errno == errno.ENAMETOOLONG:
        return FileNotAccessible("The name of a file or folder is too long for this system.",
                                 "Use a shorter one.")
    if error.errno in _NO_PERMISSION:
        return FileNotAccessible(f"There is no permission to use {name}.",
                                 "Check its access rights, or choose another place.")
    if error.errno == errno.ENOENT:
        return FileNotAccessible(f"{name} does not exist.", "Check the name and the folder.")
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return FileNotAccessible(f"{name} is a folder where a file is needed, or the reverse.",
                                 "Check the names.")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return FileNotAccessible(f"{name} cannot be used: {reason}.", "Check the disk.")


def explain(
    error: BaseException, memory_hint: str = "Crop the scan to the region."
) -> DiffuGTSError:
    """What an exception means to the user: itself where it is a DiffuGTSError; else a full disk,
    a lack of memory, a missing package, or a mistake in the program.

    Args:
        memory_hint: what to do where memory ran out.
    """
    if isinstance(error, DiffuGTSError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return OutputNotWritten("The disk is full.", "Free some space on it.")
    if is_out_of_memory(error):
        return OutOfMemory("There is not enough memory for this scan.", memory_hint)
    if isinstance(error, ImportError):
        name = (error.name or "needed").partition(".")[0]
        return PackageMissing(f"The Python package {name} is missing or damaged.",
                              "Run: diffugts doctor")
    if isinstance(error, OSError) and (
        error.errno == errno.ENAMETOOLONG or isinstance(error.filename, str | bytes)
    ):
        return _not_accessible(error)
    # The file's name alone: a full path may name a patient.
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return InternalError("Something went wrong inside the program.",
                         f"Report this: {type(error).__name__}{where}.")
