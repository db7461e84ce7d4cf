"""card.json, what a model package states of itself; and the learned fusion that it holds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from DiffuGTSLib.errors import ModelDamaged, SequenceUnknown, plain_values
from DiffuGTSLib.files import write_json
from DiffuGTSLib.models.store import CARD

FUSIONS = ("attention", "pixel", "feature", "both")
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Fusion:
    """Weights of the learned fusion, for one modality or for one anatomy in it.

    The refined score is sigmoid(bias + attention * logit(p) + pixel * log(1 + P / floor_P) +
    feature * log(1 + F / floor_F)). The floors are the residuals' medians where healthy tissue was
    inpainted over healthy tissue: outside M the latents are equal, and the residuals 0.

    Attributes:
        weights: by the name of the fusion (`FUSIONS`): bias, attention, pixel, feature.
        pixel_floor, feature_floor: on the normalised scale; unitless.
        used: the one of `FUSIONS` that makes the final mask.
        prominence: by the name of the fusion: the least distance in logits of a lesion's
            highest score from the threshold; fainter ones are dropped. 0 where it is not listed.
        half_contrast: lesions end where their contrast with the pseudo-healthy scan has fallen
            to half, as far as the score leaves that open (`pipeline.residual`).
    """

    weights: dict[str, tuple[float, float, float, float]]
    pixel_floor: float
    feature_floor: float
    used: str = "both"
    prominence: dict[str, float] = field(default_factory=dict)
    half_contrast: bool = False

    @property
    def needs_residuals(self) -> bool:
        """Whether the final mask depends on more than the attention."""
        return any(self.weights[self.used][2:])

    def evidence(self, pixel: np.ndarray, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both residuals in units of their noise floors, compressed: log(1 + residual / floor)."""
        return np.log1p(pixel / self.pixel_floor), np.log1p(feature / self.feature_floor)

    def score(
        self, probability: np.ndarray, pixel: np.ndarray, feature: np.ndarray, kind: str = ""
    ) -> np.ndarray:
        """The refined score in [0, 1] from the AOVA map and the residuals, any equal shape.

        Args:
            kind: one of `FUSIONS`; empty: the one in use.
        """
        bias, attention, of_pixel, of_feature = self.weights[kind or self.used]
        p, f = self.evidence(pixel, feature)
        total = bias + attention * logits(probability) + of_pixel * p + of_feature * f
        return np.asarray(expit(total))


def shifted_threshold(threshold: float, prominence: float) -> float:
    """The threshold in [0, 1] whose logit is `prominence` higher."""
    return float(expit(logit(threshold) + prominence))


def logits(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept between 1e-4 and 1 - 1e-4."""
    p = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


@dataclass(frozen=True)
class Measured:
    """How good a model was on a group of scans of patients that it was not trained on.

    Attributes:
        group: of scans, in words: "glioma FLAIR".
        anatomy, modality, sequence: of the scans; "" for CT, and where sequences are mixed.
        dsc: mean Dice of the final mask.
    """

    group: str
    anatomy: str
    modality: str
    sequence: str
    patients: int
    dsc: float

    def __str__(self) -> str:
        patients = "1 patient" if self.patients == 1 else f"{self.patients} patients"
        return f"{self.group}, DSC {self.dsc:.2f} on {patients}"


@dataclass(frozen=True)
class Card:
    """The content of card.json; the attributes have the names of its keys.

    Attributes:
        name, licence, licence_url: for people.
        modalities: of "CT", "MR".
        spacing_mm: of the canonical grid, (X, Y, Z).
        scale_factor: the denoiser's latents are the autoencoder's times this.
        class_labels: the denoiser's class of a modality ("CT", "MR"), of an MR sequence ("MR/t1")
            or of one without skull ("MR/t1/skull-stripped").
        threshold: of the refined score.
        steps, samples, resamplings: of the inpainting, unless specified by the options.
        calibration: what is added to the logit of the gated AOVA map so that 0.5 is the best
            threshold, by anatomy and modality ("lung/CT"), and by MR sequence ("brain/MR/flair")
            where that has its own; 0 where it is not listed.
        open_gates: anatomies and modalities whose gate does not count, because on the examples of
            the calibration it hid more of the lesions than it kept out.
        fusion: by modality ("CT"), and by anatomy and modality ("brain/MR") where it has its own.
        files: SHA-256 of every file but this one, by its path in the package.
        trained_on, calibrated_on, scores: for people.
        validation: how good it was, by group of scans.
        trained_classes: lesion classes seen in training, by "real" masks, real masks behind the
            "frozen" networks and "synthetic" lesions; None, for all or for one of these, where the
            package does not say (see lesion_classes.py).
        left_out: lesion classes that were kept out of training.
        seen_scans: the marks (scan.file_checks.scan_mark) of the scans that the attention was
            trained on ("training"), and of those kept for its calibration ("tuning"), if any was.
        sources: of a converted model: repository, file and SHA-256 of what it was made from.
        guidance: of the classifier-free guidance by the class; 0 for none.
        least_crop: voxels (X, Y, Z); the smallest crop to inpaint, where the scan is larger.
    """

    name: str
    licence: str
    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    scale_factor: float
    class_labels: dict[str, int]
    threshold: float
    steps: int
    samples: int
    resamplings: int
    fusion: dict[str, Fusion]
    calibration: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    trained_on: str = ""
    scores: dict[str, Any] = field(default_factory=dict)
    trained_classes: dict[str, list[str] | None] | None = None
    left_out: tuple[str, ...] = ()
    licence_url: str = ""
    sources: tuple[dict[str, str], ...] = ()
    guidance: float = 0.0
    least_crop: tuple[int, int, int] = (0, 0, 0)
    open_gates: tuple[str, ...] = ()
    calibrated_on: str = ""
    validation: tuple[Measured, ...] = ()
    seen_scans: dict[str, list[str]] = field(default_factory=dict)

    @property
    def frozen_classes(self) -> list[str] | None:
        """Lesion classes of which real masks were used for the frozen networks; None where the
        card does not say."""
        if self.trained_classes is None:
            # Converted are foundation models that were trained on scans alone (docs/models.md).
            return [] if self.sources else None
        # A card without this distinction: all networks were trained on the same scans.
        return self.trained_classes.get("frozen", self.trained_classes.get("real", []))

    def statements(self) -> dict[str, str]:
        """What the card says, by what it says it of, for people."""
        classes = self.trained_classes
        if classes is None:
            classes = dict.fromkeys(("real", "synthetic"))
        steps = " x ".join(f"{step:g}" for step in self.spacing_mm)
        figures = "; ".join(f"{name} {value}" for name, value in self.scores.items()
                            if name != "measure")
        measure = self.scores.get("measure", "scores")
        return {
            "For": f"{' and '.join(self.modalities)}, seen at voxels of {steps} mm",
            "Trained on": self.trained_on or "not stated",
            "Calibrated on": self.calibrated_on or "not stated",
            "Masks of real lesions in training": _listed(classes.get("real", ()), "none"),
            "Masks of real lesions behind the frozen networks": _listed(
                self.frozen_classes, "none"),
            "Synthetic lesions in training": _listed(classes.get("synthetic", ()), "none"),
            "Left out of training": _listed(self.left_out, "nothing"),
            "Calibrated for": _listed([key.replace("/", " ").replace("_", " ") for key
                                       in self.calibration],
                                      "nothing; the threshold 0.5 was not chosen"),
            "Scores": f"{measure}: {figures}" if figures else "not measured",
            "Licence": " ".join(part for part in (self.licence, self.licence_url) if part),
        }

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a package.

        Raises:
            ModelDamaged: it is no card.
        """
        try:
            entries = plain_values(json.loads((folder / CARD).read_text(encoding="utf-8")))
            fusion = {
                modality: Fusion(
                    {k: tuple(w) for k, w in f["weights"].items()},
                    f["pixel_floor"], f["feature_floor"], f.get("used", "both"),
                    f.get("prominence", {}), f.get("half_contrast", False),
                )
                for modality, f in entries.pop("fusion").items()
            }
            entries["spacing_mm"] = tuple(entries["spacing_mm"])
            entries["modalities"] = tuple(entries["modalities"])
            entries["validation"] = tuple(Measured(**e) for e in entries.get("validation", ()))
            entries["left_out"] = tuple(entries.get("left_out", ()))
            entries["open_gates"] = tuple(entries.get("open_gates", ()))
            entries["sources"] = tuple(entries.get("sources", ()))
            entries["least_crop"] = tuple(entries.get("least_crop", (0, 0, 0)))
            card = cls(fusion=fusion, **entries)
            card._check()
            return card
        except (OSError, ValueError, LookupError, TypeError, AttributeError,
                RecursionError) as error:
            raise ModelDamaged(
                f"The model package is damaged: {CARD} cannot be read.", "Install the model again."
            ) from error

    def _check(self) -> None:
        """Raises ValueError or TypeError: a value is none that a run can use."""
        counts = (self.steps, self.samples, self.resamplings)
        numbers = (*self.spacing_mm, self.scale_factor, self.threshold, self.guidance,
                   *self.calibration.values())
        if not all(isinstance(n, int) and 0 <= n <= MAX_STEPS for n in counts) or not (
                self.steps and self.samples):
            raise ValueError("steps, samples and resamplings have to be whole numbers")
        if not all(math.isfinite(number) for number in numbers) or not 0 <= self.threshold <= 1:
            raise ValueError("a number is not finite")
        if len(self.spacing_mm) != 3 or not all(0.1 <= step <= 50 for step in self.spacing_mm):
            raise ValueError("the spacing is none of a grid")
        if not self.modalities:
            raise ValueError("no modality")
        if not all(isinstance(label, int) for label in self.class_labels.values()):
            raise TypeError("a class is no whole number")

    def write(self, folder: Path) -> None:
        """Writes the card into `folder`, in an atomic write.

        Raises:
            OutputNotWritten: no space, or no permission.
        """
        entries = {k: v for k, v in self.__dict__.items() if k != "fusion"}
        entries["fusion"] = {m: f.__dict__ for m, f in self.fusion.items()}
        entries["validation"] = [measured.__dict__ for measured in self.validation]
        write_json(folder / CARD, entries)

    def shift_of(self, anatomy: str, modality: str, sequence: str = "") -> float | None:
        """The calibration of an anatomy in a scan: the sequence's own, else the modality's; None
        where there is none."""
        key = f"{anatomy}/{modality}"
        return self.calibration.get(f"{key}/{sequence}", self.calibration.get(key))

    def fusion_of(self, anatomy: str, modality: str) -> Fusion:
        """The fusion of an anatomy in a scan: the anatomy's own, else the modality's."""
        return self.fusion.get(f"{anatomy}/{modality}") or self.fusion[modality]

    def class_label(
        self, modality: str, sequence: str = "", skull_stripped: bool = False
    ) -> int:
        """The denoiser's class for a scan; 0 where the model takes none.

        Args:
            modality: "CT" or "MR".
            sequence: "t1", "t1c", "t2", "flair", or "" where it is not known.
            skull_stripped: nothing but the brain is left.

        Raises:
            SequenceUnknown: the model needs to know the MR sequence, or has no class for it.
        """
        wanted = "/".join(part for part in (modality, sequence) if part)
        keys = [f"{wanted}/skull-stripped"] if skull_stripped else []
        for key in (*keys, wanted, modality):
            if key in self.class_labels:
                return self.class_labels[key]
        choices = tuple(dict.fromkeys(
            key.split("/")[1] for key in self.class_labels if key.startswith(f"{modality}/")
        ))
        if choices:
            raise SequenceUnknown(sequence, choices)
        return 0


def _listed(names: Sequence[str] | None, nothing: str) -> str:
    return "not stated" if names is None else ", ".join(names) or nothing
