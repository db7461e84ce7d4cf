"""The catalogue of models, and what can be done with one: download, verify, remove."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import ModelEntry
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import Ending, Task

# The panel has shown the licence, or asked whether to remove, before.
_AGREED = {"download": ("--accept-licence",), "remove": ("--yes",), "verify": ()}


def listModels() -> list[ModelEntry]:
    """All models of the catalogue and of the store; no torch, no network."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.models.store import describe_models

    return [_entry(facts) for facts in describe_models()["models"]]


def _entry(facts: dict[str, Any]) -> ModelEntry:
    size = facts["bytes"] or facts["expected_bytes"]
    message = facts["message"]
    if not facts["installed"] and "download" in facts["actions"]:
        # The library names the command.
        message = _("Not installed; Download is under Advanced.")
    return ModelEntry(
        facts["name"], facts["title"], facts["purpose"], tuple(facts["modalities"]),
        facts["licence"]["name"], facts["licence"]["url"], size / 1e6 if size else None,
        facts["installed"], facts["ready"], message, facts["trained_on"],
        facts["scores"], tuple(facts["actions"]),
    )


def act(
    action: str, name: str, python: str, onDone: Callable[[str], None],
    onError: Callable[[Failure], None], onLine: Callable[[str], None],
) -> Task:
    """Runs `diffugts models ACTION NAME` without blocking.

    Args:
        action: "download", "verify" or "remove"; the person has agreed to the licence, or to the
            removal.
        name: of the model.
        python: to run it in; "" is Slicer's own.
        onDone: called with a sentence.
        onError: called with the reason why not.
        onLine: called with each line of progress.
    """

    def done(ending: Ending, lines: list[str]) -> None:
        facts = _document(lines)
        if ending.kind == "ended" and ending.code == 0:
            each = (facts.get("models") or [facts])[0]
            onDone(str(each.get("message") or _("Done.")))
            return
        # Its stderr ends with a sentence and, perhaps, a hint.
        said = [word for word in ending.words if word.strip()] or [_("It failed without a word.")]
        hint = said[-1].removeprefix("Hint: ") if said[-1].startswith("Hint: ") else ""
        message = said[-2] if hint and len(said) > 1 else said[-1]
        onError(Failure(f"model-{action}-failed", message, hint))

    arguments = ["models", action, name, *_AGREED[action], "--json"]
    return Task(LibraryLauncher.launch("cli", arguments, python), done, onLine)


def _document(lines: list[str]) -> dict[str, Any]:
    try:
        document = json.loads("\n".join(lines))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
