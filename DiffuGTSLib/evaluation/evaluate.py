"""The evaluation of a data set: case by case, resumable, then the tables and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.datasets import DataSet, LabelledCase
from DiffuGTSLib.errors import (
    BadDataSet,
    ModelDamaged,
    NotZeroShot,
    OutputNotWritten,
    PromptNotUnderstood,
)
from DiffuGTSLib.evaluation.child_process import CaseFailure, CaseScorer, ScoringProcess
from DiffuGTSLib.evaluation.measures import require_metrics
from DiffuGTSLib.evaluation.scoring import CaseScores, EvaluationSettings, file_name
from DiffuGTSLib.files import write_json
from DiffuGTSLib.models import Card, find
from DiffuGTSLib.models.store import read_card
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.prompt.lesion_classes import Exposure, exposure
from DiffuGTSLib.scan.file_checks import file_states

# Entries of a card that may change without changing any score.
_DESCRIPTIVE = ("name", "licence", "licence_url", "trained_on", "calibrated_on", "scores",
                "sources", "validation")

SCORES = "scores.json"
EARLIER = " (scored by an earlier run)"  # behind the line of a case
WRITTEN = (SCORES, "cases.csv", "groups.csv", "report.html", "figures")
_MAX_NAMES = 12  # of cases, in a message

CaseOutcome = CaseScores | CaseFailure
OnOutcome = Callable[[int, int, CaseOutcome, bool], None]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a data set.

    Attributes:
        dataset: what was evaluated.
        card: of the model.
        model_sha256: of all of it that decides scores; see `model_fingerprint`.
        settings: of the run.
        zero_shot: zero-shot scores were requested, and these may be called so.
        cases: in the data set's order.
        failures: cases without scores.
    """

    dataset: DataSet
    card: Card
    model_sha256: str
    settings: EvaluationSettings
    zero_shot: bool
    cases: tuple[CaseScores, ...]
    failures: tuple[CaseFailure, ...]


def choose(dataset: DataSet, only: Sequence[str] = (), limit: int | None = None) -> DataSet:
    """Part of a data set: the cases whose names match a pattern, at most `limit` per group.

    Args:
        only: patterns with * and ?; none: all cases.

    Raises:
        BadDataSet: no case is left.
    """
    matching = [c for c in dataset.cases if not only or any(fnmatch(c.name, p) for p in only)]
    kept, taken = [], dict.fromkeys((c.group_name for c in matching), 0)
    for case in matching:
        taken[case.group_name] += 1
        if limit is None or taken[case.group_name] <= limit:
            kept.append(case)
    if not kept:
        names = [c.name for c in dataset.cases]
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        raise BadDataSet("No case of the data set matches.",
                         f"Its cases: {', '.join(names[:_MAX_NAMES])}{more}.")
    return DataSet(dataset.name, dataset.licence, tuple(kept), dataset.parts)


def refuse_other(output: Path, settings: EvaluationSettings) -> None:
    """Scores that were made with other settings are not overwritten.

    Raises:
        OutputNotWritten: such are in the folder.
    """
    try:
        before = json.loads((output / SCORES).read_text(encoding="utf-8"))["settings"]
        now = settings.as_dict()
        differ = [name for name in now if name in before and before[name] != now[name]
                  and name not in ("device", "figures", "threads")]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no scores that could be lost
    if differ:
        raise OutputNotWritten(
            f"The folder {output.name} holds scores with other settings ({', '.join(differ)}).",
            "Choose another folder for output, or delete that one.")


def refuse_foreign(output: Path) -> None:
    """Tables and reports of other programs are not overwritten.

    Raises:
        OutputNotWritten: such are in the folder.
    """
    there = [name for name in WRITTEN if (output / name).exists()]
    begun = any((output / "cases").glob("*.json"))
    try:
        ours = "settings" in json.loads((output / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = False
    if there and not ours and not begun:
        raise OutputNotWritten(
            f"The folder {output.name} holds a {there[0]} that this program did not write.",
            "Choose another folder for output.")


def evaluate(
    dataset: DataSet, output: Path, settings: EvaluationSettings, *, zero_shot: bool = False,
    on_outcome: OnOutcome | None = None, scorer: CaseScorer | None = None,
) -> Evaluation:
    """Scores every case of `dataset`; those that are done in `output` already are kept.

    A case counts as done when its files, the model, the settings and this version are the same. A
    case that fails is reported, and retried by the next run.

    Args:
        output: made if need be. cases/ and figures/ go into it.
        zero_shot: refuse to run unless every score may be called zero-shot.
        on_outcome: called as on_outcome(done, total, outcome, kept) after each case; `kept`: the
            scores are those of an earlier run.
        scorer: scores the cases; a `ScoringProcess` if None.

    Raises:
        NotZeroShot: see `check_zero_shot`.
        PackageMissing: MONAI.
        ModelMissing, ModelDamaged, ModelUnusable: the model.
        OutputNotWritten: the folder.
    """
    folder = find(settings.options.model)
    card = Card.read(folder)
    if zero_shot:
        check_zero_shot(card, dataset.cases)
    require_metrics()
    refuse_foreign(output)
    try:
        (output / "cases").mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(f"The folder {output.name} cannot be made.",
                               "Choose another folder.") from None
    deciding = _deciding(folder)

    def check_model() -> None:
        if _deciding(folder) != deciding:
            raise ModelDamaged(f"The model {card.name} changed while it was scored.",
                               "Start again when it is finished: every case is scored anew.")

    outcomes: list[CaseOutcome] = []
    with nullcontext(scorer) if scorer else ScoringProcess(settings, output) as scoring:
        for case in dataset.cases:
            key = _fingerprint(case, settings, deciding)
            record = output / "cases" / f"{file_name(case.name)}.json"
            stored = _stored(record, key, output)
            outcomes.append(stored or _scored(case, record, key, scoring, check_model))
            if on_outcome is not None:
                on_outcome(len(outcomes), len(dataset.cases), outcomes[-1], stored is not None)
    return Evaluation(
        dataset, card, _hash(deciding), settings, zero_shot,
        tuple(o for o in outcomes if isinstance(o, CaseScores)),
        tuple(o for o in outcomes if isinstance(o, CaseFailure)),
    )


def _scored(
    case: LabelledCase, record: Path, key: str, scorer: CaseScorer, check: Callable[[], None]
) -> CaseOutcome:
    """New scores, which are stored in `record` if the `check` passes."""
    outcome = scorer.score(case)
    check()
    if isinstance(outcome, CaseScores):
        write_json(record, {"fingerprint": key, "scores": outcome.as_dict()})
    return outcome


def check_zero_shot(card: Card, cases: Sequence[LabelledCase]) -> None:
    """Whether scores of these cases may be called zero-shot: no mask of the class was trained on.

    Synthetic lesions of the class do not forbid it, but the report says so in every row. Prompts
    for a wrong organ do not count: nothing of their class is scored.

    Raises:
        NotZeroShot: a class was trained on, or the model or the prompt do not state that.
    """
    classes = dict.fromkeys(c.lesion_class or c.prompt for c in cases if not c.wrong_organ)
    seen: dict[str, list[str]] = {}
    for text in classes:
        try:
            understand(text)
        except PromptNotUnderstood:
            continue  # such a case fails by itself
        try:
            known = exposure(card.trained_classes, text)
        except PromptNotUnderstood:
            raise NotZeroShot(
                f"Scores of “{text}” cannot be called zero-shot: it names no organ, so any "
                "tumor that was trained on counts.", "Use a prompt that names an organ.") from None
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


def model_fingerprint(model: Path) -> str:
    """SHA-256 of what decides the scores of a package: weights, thresholds, fusion.

    The card holds the SHA-256 of all other files.
    """
    return _hash(_deciding(model))


def _hash(document: Mapping[str, Any]) -> str:
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _deciding(model: Path) -> dict[str, Any]:
    return {k: v for k, v in read_card(model).items() if k not in _DESCRIPTIVE}


def _fingerprint(
    case: LabelledCase, settings: EvaluationSettings, deciding: Mapping[str, Any]
) -> str:
    """Changes whenever the scores may."""
    document: dict[str, Any] = {
        "version": __version__, "model": deciding, "settings": settings.as_dict(),
        "case": {k: str(v) for k, v in asdict(case).items()},
        "files": [_state(path) for path in (case.image, case.mask)],
    }
    return _hash(document)


def _state(path: Path | None) -> list[int]:
    """Size and time of the last change of each file that a scan or mask lies in."""
    if path is None or not path.exists():
        return []
    return [number for _, *state in file_states(path) for number in state]


def _stored(record: Path, key: str, output: Path) -> CaseScores | None:
    """The scores of an earlier run, if they are those of this case, model and settings."""
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
        scores = CaseScores.from_dict(stored["scores"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = not scores.figure or (output / scores.figure).is_file()
    return scores if stored.get("fingerprint") == key and there else None

