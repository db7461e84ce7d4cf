"""One case: segment it, score it, and what each part of the method adds."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import SimpleITK as sitk
import torch

from DiffuGTSLib.datasets import LabelledCase, Volumes
from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.evaluation.measures import Baselines, Measures, baselines, measure, overlap
from DiffuGTSLib.models import Fusion
from DiffuGTSLib.models.card import FUSIONS
from DiffuGTSLib.output import overview
from DiffuGTSLib.pipeline import EncodedScan, Options, Result, Segmenter
from DiffuGTSLib.prompt.lesion_classes import Exposure, exposure
from DiffuGTSLib.scan.file_checks import scan_mark

Kind = Literal["tumor", "no tumor", "wrong organ"]
# "map": the attention map at the threshold, over the whole scan; the others: card.FUSIONS.
ABLATIONS = ("map", *FUSIONS)
_SEEN_NOTES = {
    "training": "The model was trained on this scan: the score says little of new scans.",
    "tuning": "This scan was kept for the calibration of the model, which may have used it: the "
              "score may be better than on new scans.",
}
_OPTIONS = ("model", "device", "threshold", "seed", "samples")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is the same for all cases of an evaluation.

    Attributes:
        options: of the method. Modality and sequence are the data set's, case by case.
        ablation: score AOVA alone, with each residual and with both, too.
        baselines: measure `Baselines` too.
        figures: draw an overview of each case.
        threads: of the CPU.
    """

    options: Options = field(default_factory=Options)
    ablation: bool = False
    baselines: bool = False
    figures: bool = True
    threads: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for scores.json and for the fingerprint of a case's scores."""
        own = {name: value for name, value in self.__dict__.items() if name != "options"}
        return self.options.as_dict(*_OPTIONS) | own


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        kind: "tumor"; "no tumor": the reference is empty; "wrong organ": the prompt names another
            tumor than the one that is outlined. In the last two nothing must be found.
        exposure: what training saw of the class (see lesion_classes.py).
        found: whether any lesion was reported.
        measures: of the final mask; against an empty reference where nothing must be found.
        wrong_organ_dsc: DSC with the tumor that the prompt does not name.
        seconds: to encode and to segment, the model loaded.
        peak_gb: peak of the main memory of the scoring process since its start.
        peak_gpu_gb: peak of the GPU memory of the networks for this case; None on a CPU.
        ablation: by `ABLATIONS`, without surface distances; empty if not requested.
        figure: relative to the output folder; "" without one.
        notes: what the user should know of how the case was read and segmented; sentences.
    """

    name: str
    patient: str
    dataset: str
    group: str
    prompt: str
    modality: str
    sequence: str
    kind: Kind
    exposure: str
    found: bool
    highest_score: float
    measures: Measures
    wrong_organ_dsc: float | None
    seconds: float
    peak_gb: float
    peak_gpu_gb: float | None
    ablation: dict[str, Measures] = field(default_factory=dict)
    baselines: Baselines | None = None
    figure: str = ""
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.__dict__ | {
            "measures": self.measures.as_dict(),
            "ablation": {kind: values.as_dict() for kind, values in self.ablation.items()},
            "baselines": asdict(self.baselines) if self.baselines else None,
        }

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> CaseScores:
        """The reverse of `as_dict`.

        Raises:
            KeyError, TypeError: other entries.
        """
        stored = entries["baselines"]
        return cls(**entries | {
            "measures": _measures(entries["measures"]),
            "ablation": {kind: _measures(m) for kind, m in entries["ablation"].items()},
            "baselines": Baselines(**stored) if stored else None,
            "notes": tuple(entries.get("notes", ())),
        })


def _measures(entries: dict[str, Any]) -> Measures:
    return Measures(**{name: entries[name] for name in Measures.__dataclass_fields__})


def file_name(case: str) -> str:
    """A name for files of a case, different for different cases."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", case)[:100]
    return safe if safe == case else f"{safe}-{sha256(case.encode()).hexdigest()[:6]}"


class Scorer:
    """Scores case after case with one model; a scan that consecutive cases share is encoded once.

    Args:
        folder: figures go into its "figures".

    Raises:
        ModelMissing, ModelDamaged, DeviceMissing: as `Segmenter.from_pretrained`.
    """

    def __init__(self, settings: EvaluationSettings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.segmenter = Segmenter.from_pretrained(settings.options.model, settings.options.device)
        self._last: tuple[tuple[object, ...], EncodedScan, float] | None = None

    def score(self, case: LabelledCase) -> CaseScores:
        """Segments and scores one case.

        Raises:
            DiffuGTSError: its files or its prompt cannot be used.
        """
        self._forget_others(case)
        volumes = case.read()
        if self.segmenter.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.segmenter.device)
        scan, encoding = self._encode(case, volumes)
        started = time.monotonic()
        (result,) = self.segmenter.segment_all(scan, [case.prompt], self.settings.options)
        mask = result.mask
        seconds = encoding + time.monotonic() - started
        memory, gpu_memory = peak_memory_gb(), peak_gpu_memory_gb(self.segmenter.device)
        kind = _kind(case, volumes)
        reference = volumes.tumor if kind == "tumor" else volumes.tumor * 0
        return CaseScores(
            name=case.name, patient=case.patient, dataset=case.dataset, group=case.group_name,
            prompt=case.prompt, modality=volumes.modality, sequence=volumes.scan.sequence,
            kind=kind, exposure=self.exposure(case), found=result.found,
            highest_score=result.highest_score, measures=measure(mask, reference),
            wrong_organ_dsc=overlap(mask, volumes.tumor) if case.wrong_organ else None,
            seconds=seconds, peak_gb=memory, peak_gpu_gb=gpu_memory,
            ablation=self._ablation(result, reference) if self.settings.ablation else {},
            baselines=baselines(result, reference, scan.canonical)
            if self.settings.baselines and kind == "tumor" else None,
            figure=self._draw(case, volumes, result) if self.settings.figures else "",
            notes=tuple(dict.fromkeys((*result.notes, *self._seen(case)))),
        )

    def exposure(self, case: LabelledCase) -> str:
        """What the model's training saw of the case's class; "unknown" for one without an organ."""
        try:
            return str(exposure(self.segmenter.package.card.trained_classes,
                                case.lesion_class or case.prompt))
        except PromptNotUnderstood:
            return str(Exposure.UNKNOWN)

    def _seen(self, case: LabelledCase) -> list[str]:
        """Notes on a scan that the model was made with."""
        seen = self.segmenter.package.card.seen_scans
        mark = scan_mark(case.image) if seen else ""
        return [note for split, note in _SEEN_NOTES.items() if mark in seen.get(split, ())]

    def _forget_others(self, case: LabelledCase) -> None:
        """One encoded scan at a time in memory."""
        if self._last is not None and self._last[0] != _read_as(case):
            self._last = None

    def _encode(self, case: LabelledCase, volumes: Volumes) -> tuple[EncodedScan, float]:
        """The encoded scan and the seconds that this took, when it was done."""
        if self._last is None:
            started = time.monotonic()
            scan = self.segmenter.encode(self.segmenter.prepare(volumes.scan))
            self._last = (_read_as(case), scan, time.monotonic() - started)
        return self._last[1], self._last[2]

    def _ablation(self, result: Result, reference: sitk.Image) -> dict[str, Measures]:
        card = self.segmenter.package.card
        fusion = card.fusion_of(result.prompt.anatomy, result.canonical.modality)
        kinds = [kind for kind in ABLATIONS if kind == "map" or kind in fusion.weights]
        return {kind: measure(ablated(result, fusion, kind).mask, reference, surface=False)
                for kind in kinds}

    def _draw(self, case: LabelledCase, volumes: Volumes, result: Result) -> str:
        path = self.folder / "figures" / f"{file_name(case.name)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = sitk.GetArrayViewFromImage(volumes.tumor).any()
        name = case.name.removesuffix(f"_{case.prompt.replace(' ', '_')}")
        overview(
            result.image, result.attention, result.pseudo_healthy, result.residual, result.mask,
            title=f"{name}: {case.prompt}", lesions=result.lesions, path=path,
            modality=volumes.modality, highest_score=result.highest_score,
            reference=volumes.tumor if shown else None,
        )
        return f"figures/{path.name}"


def ablated(result: Result, fusion: Fusion, kind: str) -> Result:
    """The result of a part of the method: one of `ABLATIONS`; no network runs.

    Inside M the score is fused again; no contrast on the scan's own grid counts. "map" is the
    attention itself, over the whole scan.
    """
    evidence = result.evidence
    if kind == "map":
        everywhere = evidence.mask | True
        return replace(result, prominence=0.0, half_contrast=False, evidence=replace(
            evidence, score=evidence.attention, mask=everywhere))
    inside = evidence.mask
    score = evidence.score.copy()
    score[inside] = fusion.score(
        evidence.attention[inside], evidence.pixel[inside], evidence.feature[inside], kind
    )
    return replace(result, prominence=fusion.prominence.get(kind, 0.0), half_contrast=False,
                   evidence=replace(evidence, score=score))


def _read_as(case: LabelledCase) -> tuple[object, ...]:
    """What has to be the same so that an encoded scan can be used again."""
    return case.image, case.channel, case.modality, case.sequence, case.skull_stripped


def _kind(case: LabelledCase, volumes: Volumes) -> Kind:
    if case.wrong_organ:
        return "wrong organ"
    return "tumor" if sitk.GetArrayViewFromImage(volumes.tumor).any() else "no tumor"


def peak_memory_gb() -> float:
    """Peak of this process's main memory since its start, in GB of 10^9 bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak_gpu_memory_gb(device: str) -> float | None:
    """Peak of the GPU memory of the networks since it was reset, in GB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.startswith("cuda") else None
