"""Errors as the user sees them: one sentence and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

Event = dict[str, Any]


class Failure(Exception):
    """The only exception that reaches the panel and callers of the logic.

    Args:
        code: short and stable, for programs; those of DiffuGTSLib/errors.py are among them.
        message: one sentence for the user.
        hint: what to do about it; may be empty.
        suggestions: prompts that are understood, closest match first; with the code
            "sequence-unknown" the MR sequences of which one has to be chosen.
    """

    def __init__(
        self, code: str, message: str, hint: str = "", suggestions: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.suggestions = tuple(suggestions)


def failureFrom(event: Event) -> Failure:
    """The failure that an `error` event of the worker reports."""
    return Failure(event["code"], event["message"], hintFrom(event), event["suggestions"])


def hintFrom(event: Event) -> str:
    """The hint of an `error` event in the panel's terms; the library's may name CLI options."""
    if event["code"] == "sequence-unknown":
        return _("Choose it under Advanced > MR sequence.")
    return str(event["hint"])


def unexpectedFailure(error: Exception) -> Failure:
    """A programming error as a failure; the traceback goes to Slicer's own log."""
    logging.getLogger("DiffuGTS").error("unexpected", exc_info=error)
    return Failure("internal", _("An unexpected error occurred in the extension: {kind}.").format(
        kind=type(error).__name__), _("Please report it together with the log."))
