"""What a result is of, in words: in the list of results, above its lesions, in tool tips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Run import inScene
from DiffuGTSPanel.widgets.Section import coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Run import PromptResult, Run

# Characters; a name without spaces still fits into a narrow panel, which cannot break it.
MAX_NAME = 36


class Entry(NamedTuple):
    """A result in the list.

    Attributes:
        number: counts the results of the session; tells apart those with the same names.
        time: of the end of its run, for people.
    """

    run: Run
    result: PromptResult
    number: int
    time: str


def elided(name: str, length: int = MAX_NAME) -> str:
    """A name without the middle of a long one: names of scans may differ at either end."""
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[:length - 1 - end].rstrip()}\u2026{name[-end:].lstrip()}"


def listNames(entries: Sequence[Entry]) -> list[str]:
    """Names for the list; those that would be the same are numbered."""
    names = [_name(entry, elided(entry.run.scanName)) for entry in entries]
    counts = Counter(names)
    return [_name(entry, elided(entry.run.scanName), entry.number) if counts[name] > 1 else name
            for entry, name in zip(entries, names, strict=True)]


def details(entry: Entry, chosen: Any = None) -> str:
    """The whole name, and what the run was made with; for a tool tip.

    Args:
        chosen: the volume node that the next run is on, where it is to be named as well.
    """
    run = entry.run
    text = _("Run at {time} with model {model}, seed {seed}.").format(
        time=entry.time, model=run.options.model, seed=run.options.seed)
    lines = [_name(entry, run.scanName), text]
    limits = [node.GetName() for node in (inScene(run.within), run.roiNode) if node is not None]
    if limits:
        lines.append(_("Searched only in {names}.").format(names=", ".join(limits)))
    if inScene(chosen) not in (None, run.volumeNode):
        lines.append(_("Chosen is {scan}.").format(scan=chosen.GetName()))
    return "\n".join(lines)


def scanLine(entry: Entry, chosen: Any) -> str:
    """The scan of a result, as rich text; a warning where another one is chosen.

    Args:
        chosen: the volume node that the next run is on, or None.
    """
    run, chosen = entry.run, inScene(chosen)
    name = elided(run.scanName)
    other = elided(chosen.GetName()) if chosen is not None else ""
    isSame = other == name
    if entry.result.frame is not None:
        name = _("{scan}, frame {number}").format(scan=name, number=entry.result.frame + 1)
    if run.volumeNode is None:
        name = _("{scan} (no longer in the scene)").format(scan=name)
    elif run.volumeNode is chosen:
        return f"{coloured(_('Scan:'), 'muted')} <b>{escape(name)}</b>"
    if chosen is None:
        text = _("Result of {scan}; no scan is chosen.")
    elif isSame:
        text = _("Result of {scan}; another scan is chosen.")
    else:
        text = _("Result of {scan}; chosen is {chosen}.")
    return f"<b>{coloured(text.format(scan=name, chosen=other), 'bad')}</b>"


def _name(entry: Entry, scan: str, number: int | None = None) -> str:
    title, frame = entry.result.title, entry.result.frame
    parts = [title if number is None else f"{title} ({number})", scan]
    if frame is not None:
        parts.append(_("frame {number}").format(number=frame + 1))
    return " \u00b7 ".join(part for part in parts if part)
