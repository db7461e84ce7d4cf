"""Invented scores, and a scorer in this process that makes real ones."""

from __future__ import annotations

from DiffuGTSLib.evaluation.child_process import attempt
from DiffuGTSLib.evaluation.measures import Measures
from DiffuGTSLib.evaluation.scoring import CaseScores, Scorer


class InProcessScorer:
    """Scores in this process, which saves the start of another one."""

    def __init__(self, settings, folder):
        self.scorer = Scorer(settings, folder)

    def score(self, case):
        return attempt(case.name, lambda: self.scorer.score(case))


def scored(number: int = 0, dsc: float | None = 0.5, **more) -> CaseScores:
    """A case with a tumor of 10 ml; without a DSC, one without a tumor and 2 ml segmented."""
    measures = Measures(dsc, 0.5, 10.0, 12.0, 2, 3, 1)
    kind = "tumor"
    if dsc is None:
        kind, measures = "no tumor", Measures(None, None, 0.0, 2.0, 0, 1, 0)
    return CaseScores(**{
        "name": f"c{number}", "patient": f"p{number}", "dataset": "msd-liver", "group": "liver",
        "prompt": "liver tumor", "modality": "CT", "sequence": "", "kind": kind,
        "exposure": "unseen", "found": True, "highest_score": 0.9, "measures": measures,
        "wrong_organ_dsc": None, "seconds": 1.0, "peak_gb": 1.0, "peak_gpu_gb": None,
    } | more)
