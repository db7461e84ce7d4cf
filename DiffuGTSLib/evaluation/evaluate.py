"""The evaluation of a data set: case by case, resumable, then the tables and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.datasets.case import LabelledCase
from DiffuGTSLib.datasets.folder import DataSet
from DiffuGTSLib.errors import BadDataSet, NotZeroShot, OutputNotWritten, PromptNotUnderstood
from DiffuGTSLib.evaluation.child_process import Failure, Place, Scores
from DiffuGTSLib.evaluation.measures import require_metrics
from DiffuGTSLib.evaluation.scoring import CaseScores, Settings, file_name
from DiffuGTSLib.files import write_json
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.store import find, read_card
from DiffuGTSLib.prompt.lesion_classes import Exposure, exposure
from DiffuGTSLib.prompt.parsing import understand

# Of a card: what may be written into it afterwards without changing any score.
_FOR_PEOPLE = ("name", "licence", "licence_url", "trained_on", "calibrated_on", "scores",
               "sources")

SCORES = "scores.json"
_NAMED = 12  # cases in a message

Outcome = CaseScores | Failure
Tell = Callable[[int, int, Outcome], None]


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        dataset: what was evaluated.
        card: of the model.
        settings: of the run.
        zero_shot: the scores were asked to be zero-shot, and may be called so.
        cases: in the data set's order.
        failures: cases without scores.
    """

    dataset: DataSet
    card: Card
    settings: Settings
    zero_shot: bool
    cases: tuple[CaseScores, ...]
    failures: tuple[Failure, ...]


def choose(dataset: DataSet, only: Sequence[str] = (), limit: int | None = None) -> DataSet:
    """Part of a data set: the cases whose names match a pattern, at most `limit` a group.

    Args:
        only: patterns with * and ?; none: all cases.

    Raises:
        BadDataSet: no case is left.
    """
    matching = [c for c in dataset.cases if not only or any(fnmatch(c.name, p) for p in only)]
    kept, taken = [], dict.fromkeys((c.rows for c in matching), 0)
    for case in matching:
        taken[case.rows] += 1
        if limit is None or taken[case.rows] <= limit:
            kept.append(case)
    if not kept:
        names = [c.name for c in dataset.cases]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise BadDataSet("No case of the data set matches.",
                         f"Its cases: {', '.join(names[:_NAMED])}{more}.")
    return DataSet(dataset.name, dataset.licence, tuple(kept), dataset.parts)


def refuse_other(output: Path, settings: Settings) -> None:
    """Scores that were made with other settings are not overwritten.

    Raises:
        OutputNotWritten: such are in the folder.
    """
    try:
        before = json.loads((output / SCORES).read_text(encoding="utf-8"))["settings"]
        now = asdict(settings)
        differ = [name for name in now if name in before and before[name] != now[name]
                  and name not in ("device", "figures", "threads")]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing that could be lost
    if differ:
        raise OutputNotWritten(
            f"The folder {output.name} holds scores with other settings ({', '.join(differ)}).",
            "Choose another folder for output, or delete that one.")


def evaluate(
    dataset: DataSet, output: Path, settings: Settings, *, zero_shot: bool = False,
    tell: Tell | None = None, place: Scores | None = None,
) -> Evaluation:
    """Scores every case of `dataset`; those that are done in `output` already are kept.

    A case counts as done when its files, the model, the settings and this version are the same. A
    case that fails is reported and tried again the next time.

    Args:
        output: made if need be. cases/ and figures/ go into it.
        zero_shot: refuse to run unless every score may be called zero-shot.
        tell: called as tell(done, total, outcome) after each case.
        place: where cases are scored; a process of its own if None.

    Raises:
        NotZeroShot: see `check_zero_shot`.
        PackageMissing: MONAI.
        ModelMissing, ModelDamaged, ModelUnusable: the model.
        OutputNotWritten: the folder.
    """
    folder = find(settings.model)
    card = Card.read(folder)
    if zero_shot:
        check_zero_shot(card, dataset.cases)
    require_metrics()
    try:
        (output / "cases").mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(f"The folder {output.name} cannot be made.",
                               "Choose another place.") from None
    outcomes: list[Outcome] = []
    with nullcontext(place) if place else Place(settings, output) as where:
        for case in dataset.cases:
            outcomes.append(_outcome(case, output, _fingerprint(case, settings, folder), where))
            if tell is not None:
                tell(len(outcomes), len(dataset.cases), outcomes[-1])
    return Evaluation(
        dataset, card, settings, zero_shot,
        tuple(o for o in outcomes if isinstance(o, CaseScores)),
        tuple(o for o in outcomes if isinstance(o, Failure)),
    )


def _outcome(case: LabelledCase, output: Path, key: str, where: Scores) -> Outcome:
    """The scores of an earlier run, or new ones, which are kept."""
    record = output / "cases" / f"{file_name(case.name)}.json"
    if (kept := _kept(record, key, output)) is not None:
        return kept
    outcome = where.score(case)
    if isinstance(outcome, CaseScores):
        write_json(record, {"fingerprint": key, "scores": outcome.as_dict()})
    return outcome


def check_zero_shot(card: Card, cases: Sequence[LabelledCase]) -> None:
    """Whether scores of these cases may be called zero-shot: no mask of the class was trained on.

    Synthetic lesions of the class do not forbid it, but the report says so in every row. Prompts
    for a wrong organ do not count: nothing of their class is scored.

    Raises:
        NotZeroShot: a class was trained on, or the package or the prompt leave that open.
    """
    asked = dict.fromkeys(c.lesion_class or c.prompt for c in cases if not c.wrong_organ)
    seen: dict[str, list[str]] = {}
    for text in asked:
        try:
            understand(text)
        except PromptNotUnderstood:
            continue  # such a case fails by itself
        try:
            known = exposure(card.trained_classes, text)
        except PromptNotUnderstood:
            raise NotZeroShot(
                f"Scores of “{text}” cannot be called zero-shot: it names no organ, so any "
                "tumor that was trained on counts.", "Ask for the tumor of an organ.") from None
        seen.setdefault(known, []).append(text)
    if Exposure.UNKNOWN in seen:
        raise NotZeroShot(
            f"Scores of the model “{card.name}” cannot be called zero-shot: it does not say which "
            "classes it was trained on.", "Run without --zero-shot.")
    if Exposure.REAL in seen:
        raise NotZeroShot(
            f"These scores cannot be called zero-shot: the model “{card.name}” was trained on "
            f"masks of {', '.join(seen[Exposure.REAL])}.",
            "Run without --zero-shot, or train with --leave-out.")
    if Exposure.FROZEN in seen:
        raise NotZeroShot(
            f"These scores cannot be called zero-shot: masks of {', '.join(seen[Exposure.FROZEN])} "
            f"were used for the frozen networks of the model “{card.name}”.",
            "Run without --zero-shot, or train the denoiser with --leave-out, too.")


def _fingerprint(case: LabelledCase, settings: Settings, model: Path) -> str:
    """Changes whenever the scores may."""
    card = {k: v for k, v in read_card(model).items() if k not in _FOR_PEOPLE}
    document: dict[str, Any] = {
        "version": __version__, "model": card, "settings": asdict(settings),
        "case": {k: str(v) for k, v in asdict(case).items()},
        "files": [_state(path) for path in (case.image, case.mask)],
    }
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _state(path: Path | None) -> list[int]:
    """Size and time of a file's last change; of a folder, those of its files."""
    if path is None or not path.exists():
        return []
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)]


def _kept(record: Path, key: str, output: Path) -> CaseScores | None:
    """The scores of an earlier run, if they are those of this case, model and settings."""
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
        scores = CaseScores.from_dict(stored["scores"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = not scores.figure or (output / scores.figure).is_file()
    return scores if stored.get("fingerprint") == key and there else None

