"""What can go wrong, one class a kind: a code, a sentence for a clinician, a hint what to do."""

from __future__ import annotations

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


class LicenceNotAccepted(DiffuGTSError):
    """The model's licence has to be accepted first."""

    code = "licence-not-accepted"


class OutOfMemory(DiffuGTSError):
    """Memory ran out, also after the automatic fall-backs."""

    code = "out-of-memory"


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
