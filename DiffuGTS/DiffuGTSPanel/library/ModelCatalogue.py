"""The model catalogue: list, download, verify and remove models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import ModelEntry
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import CommandTask, ProcessExit

# The panel has asked for consent to the licence or the removal before.
_CONSENT_OPTIONS = {"download": ("--accept-licence",), "remove": ("--yes",), "verify": ()}


def listModels() -> list[ModelEntry]:
    """All models of the catalogue and the store, without torch and network."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.models.store import describe_models

    return [_entry(facts) for facts in describe_models()["models"]]


def _entry(facts: dict[str, Any]) -> ModelEntry:
    size = facts["bytes"] or facts["expected_bytes"]
    message = facts["message"]
    if not facts["installed"] and "download" in facts["actions"]:
        # The library's message names its command.
        message = _("Not installed. Download it under Advanced.")
    return ModelEntry(
        facts["name"], facts["title"], facts["purpose"], tuple(facts["modalities"]),
        facts["licence"]["name"], facts["licence"]["url"], size / 1e6 if size else None,
        facts["installed"], facts["ready"], message, facts["trained_on"],
        facts["scores"], tuple(facts["actions"]),
    )


def runAction(
    action: str, name: str, python: str, onDone: Callable[[str], None],
    onError: Callable[[Failure], None], onLine: Callable[[str], None],
) -> CommandTask:
    """Runs `diffugts models ACTION NAME` without blocking.

    Args:
        action: "download", "verify" or "remove"; the user has agreed to the licence or removal.
        name: of the model.
        python: to run it in; "" is Slicer's own.
        onDone: called with a sentence for the user.
        onError: called with the failure.
        onLine: called with each line of progress.
    """

    def done(result: ProcessExit, lines: list[str]) -> None:
        facts = _document(lines)
        if result.kind == "ended" and result.code == 0:
            model = (facts.get("models") or [facts])[0]
            onDone(str(model.get("message") or _("Done.")))
            return
        # The command's stderr ends with a sentence and, perhaps, a hint.
        lines = list(result.errorLines) or [_("The command failed without an error message.")]
        hint = lines[-1].removeprefix("Hint: ") if lines[-1].startswith("Hint: ") else ""
        message = lines[-2] if hint and len(lines) > 1 else lines[-1]
        onError(Failure(f"model-{action}-failed", message, hint))

    arguments = ["models", action, name, *_CONSENT_OPTIONS[action], "--json"]
    return CommandTask(LibraryLauncher.launch("cli", arguments, python), done, onLine)


def _document(lines: list[str]) -> dict[str, Any]:
    try:
        document = json.loads("\n".join(lines))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
