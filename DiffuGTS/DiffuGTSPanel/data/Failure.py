"""What the person is told when something cannot be done: a sentence and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

Event = dict[str, Any]


class Failure(Exception):
    """The only exception that reaches the panel and whoever calls the logic.

    Args:
        code: short and stable, for programs; those of DiffuGTSLib/errors.py are among them.
        message: one sentence for a person.
        hint: what to do about it; may be empty.
        suggestions: texts that would have been understood, best first; with the code
            "sequence-unknown" the MR sequences of which one has to be stated.
    """

    def __init__(
        self, code: str, message: str, hint: str = "", suggestions: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.suggestions = tuple(suggestions)


def failureOf(event: Event) -> Failure:
    """What an `error` event tells."""
    return Failure(event["code"], event["message"], hintOf(event), event["suggestions"])


def hintOf(event: Event) -> str:
    """What to do about an error; the library's hints may name options of its command line."""
    if event["code"] == "sequence-unknown":
        return _("Choose it under Advanced > MR sequence.")
    return str(event["hint"])


def unexpected(error: Exception) -> Failure:
    """A mistake in the program, told in one sentence."""
    # With its place in the code, for whoever looks into Slicer's own log.
    logging.getLogger("DiffuGTS").error("unexpected", exc_info=error)
    return Failure("internal", _("Something went wrong inside the extension: {kind}.").format(
        kind=type(error).__name__), _("Report it with the log."))
