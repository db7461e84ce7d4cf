"""What can go wrong, one class a kind: a code, a sentence for a clinician, a hint what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class DiffuGTSError(Exception):
    """Base of all errors that DiffuGTS raises on purpose.

    Attributes:
        code: short and stable, for programs.
        message: one sentence for a person; names no patient and no full path.
        hint: what to do about it; may be empty.
    """

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnreadableImage(DiffuGTSError):
    """The file or folder cannot be read as an image."""

    code = "unreadable-image"


class NotAScalarVolume(DiffuGTSError):
    """An image, but not one 3D volume of one number a voxel."""

    code = "not-a-scalar-volume"


class NotFinite(DiffuGTSError):
    """The scan holds NaN or infinite values."""

    code = "not-finite"


class NoContent(DiffuGTSError):
    """The scan is empty or has the same value everywhere."""

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
        suggestions: the nearest prompts that are understood, best first.
    """

    code = "prompt-not-understood"

    def __init__(self, message: str, hint: str = "", suggestions: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.suggestions = tuple(suggestions)


class ModelMissing(DiffuGTSError):
    """No model package of that name or at that place."""

    code = "model-missing"


class ModelDamaged(DiffuGTSError):
    """A file of the model package is absent, truncated or not what it should be."""

    code = "model-damaged"


class AttentionMissing(DiffuGTSError):
    """The model's attention (AOVA head) has not been trained; it never runs untrained.

    Args:
        model: its name.
        told: how it was asked for, where that was not by its name but by its folder.
    """

    code = "attention-missing"

    def __init__(self, model: str, told: str = "") -> None:
        name = shlex.quote(told or model)
        super().__init__(
            f"The model “{model}” cannot segment yet: its attention has not been trained.",
            f"Train it: diffugts train attention --config FILE --model {name}",
        )


class SequenceUnknown(DiffuGTSError):
    """The model has to be told the MR sequence, and nothing in the scan tells it.

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
    """The data or the checkpoint do not fit the training that was asked for."""

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
    """The background process ended without a word."""

    code = "worker-died"


class Cancelled(DiffuGTSError):
    """The run was cancelled by the caller."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The run was cancelled.")


class DownloadFailed(DiffuGTSError):
    """A sample could not be fetched, or is not the file it should be."""

    code = "download-failed"
