"""CT or MR, and which MR sequence: given, read from the DICOM tag, or guessed."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import ModalityMismatch

Modality = Literal["CT", "MR"]
Sequence = Literal["t1", "t1c", "t2", "flair", ""]
MODALITIES = ("CT", "MR")
SEQUENCES = ("t1", "t1c", "t2", "flair", "other")
MODALITY_TAG = "0008|0060"
MAX_CT_MINIMUM_HU = -200.0
_MAX_SOFT_HU, _MAX_BONE_HU = 300.0, 1000.0
EIGHT_BIT = (sitk.sitkUInt8, sitk.sitkInt8)
_SAMPLE_VOXELS = 1_000_000
LUNG_SHARE = 0.3  # of 519 crops around lung nodules, 27 show less than 0.05 of soft tissue
LEAST_SPREAD_HU, SOFT_TISSUE_SHARE, FAT_SHARE = 10.0, 0.75, 0.003  # in crops without air
OFFSET_HU = 1024
OFFSET_SHARE = 0.75
_PREFIX = r"(?:3d|2d|ax|sag|cor|tra)?"
_T1_CONTRAST = re.compile(_PREFIX + r"(?:t1w?i?(?:ce?|gd|gad|post|km|\+c?)|(?:ce|gd)t1w?i?)")
_T1 = re.compile(
    _PREFIX + r"(?:t1(?:w|wi|n|se|tse|fse|fs|vibe|mprage|weighted)?|mp2?rage|f?spgr|bravo)"
)
_T2 = re.compile(_PREFIX + r"t2(?:w|wi|se|tse|fse|fs|blade|weighted)?")
_FLAIR = re.compile(r".*flair.*|fla|t2f|tirm")
_CONTRAST = frozenset(("ce", "gd", "gad", "gadolinium", "post", "contrast", "enhanced", "km"))
_CONTRAST |= {"postcontrast", "c+", "+c", "+", "+gd"}
_WITHOUT = frozenset(("no", "non", "pre", "without", "native", "precontrast"))
_OTHER_MEANING = frozenset(("map", "star", "rho", "mapping"))
_STRIPPED = re.compile(r"(?:hd)?bet|stripped|skullstrip(?:ped)?|brainextracted|brats\d*")


def guess_modality(image: sitk.Image) -> Modality:
    """CT or MR: the DICOM tag where there is one, else the intensities.

    A scan is taken for CT when air, soft tissue and little bone show at their Hounsfield units;
    resampled CT counts too, so the values need not be integers. Everything else is MR, a CT
    without Hounsfield units among it.

    Raises:
        ModalityMismatch: the DICOM tag names another modality, PET or ultrasound for example.
    """
    if image.HasMetaDataKey(MODALITY_TAG):
        stated = image.GetMetaData(MODALITY_TAG).strip().upper()
        if stated == "CT":
            return "CT"
        if stated in ("MR", "MRI"):
            return "MR"
        raise ModalityMismatch(
            f"The scan is of modality {stated[:8] or 'unknown'}, neither CT nor MR.",
            "Pass a CT or MR scan, or state the modality if the DICOM tag is wrong.",
        )
    return "CT" if in_hounsfield_units(image) else "MR"


def modality_reason(image: sitk.Image, given: str | None, settled: Modality) -> str:
    """Why `settle_modality` took `settled`, to follow that in a sentence."""
    if given is not None:
        return "as given"
    if image.HasMetaDataKey(MODALITY_TAG):
        return "as its DICOM files say"
    return f"as its values {'look' if settled == 'CT' else 'do not look'} like Hounsfield units"


def settle_modality(image: sitk.Image, given: str | None = None) -> Modality:
    """The modality to work with: the caller's, else the guess.

    Args:
        image: 3D scalar volume.
        given: "CT", "MR", or None to guess.

    Raises:
        ModalityMismatch: `given` is another word; or the scan is to be CT and has 8 bits a voxel,
            or holds no value below -200 HU and does not show the inside of a body either.
    """
    if given is not None and given not in MODALITIES:
        raise ModalityMismatch("The modality has to be CT or MR.")
    modality: Modality = guess_modality(image) if given is None else "CT" if given == "CT" else "MR"
    if modality == "CT" and image.GetPixelID() in EIGHT_BIT:
        raise ModalityMismatch(
            "The scan has 8 bits a voxel, so that the Hounsfield units of a CT are lost.",
            "Use the original CT, not a copy made for viewing.",
        )
    voxels = sitk.GetArrayViewFromImage(image)
    # A crop inside a body may be without air. What a DICOM file states needs less of a proof.
    if (modality == "CT" and float(voxels.min()) >= MAX_CT_MINIMUM_HU
            and not (is_inside_body(voxels, stated=True) if given else _is_soft_tissue(voxels))):
        raise ModalityMismatch(
            "The scan cannot be a CT in Hounsfield units: no voxel is below -200, where air is.",
            "State MR if it is one, or rescale the CT to Hounsfield units.",
        )
    return modality


def _is_soft_tissue(voxels: np.ndarray) -> bool:
    """Whether most values are those of soft tissue, and few those of dense bone, in HU."""
    middle, high = np.percentile(voxels.ravel()[:: max(1, voxels.size // _SAMPLE_VOXELS)], (50, 90))
    return bool(middle < _MAX_SOFT_HU and high < _MAX_BONE_HU)


def is_inside_body(voxels: np.ndarray, stated: bool = False) -> bool:
    """Whether the values may be those of a CT inside a body: soft tissue, fat, hardly any air.

    So are 54 of 58 crops of 60 mm around sarcomas and liver tumors, and none of 98 MR scans. No
    proof for a guess: an MR that was resampled may have negative values beside its edges.

    Args:
        stated: somebody says that it is a CT. Then a crop may be without fat, too.
    """
    sample = voxels.ravel()[:: max(1, voxels.size // _SAMPLE_VOXELS)]
    low, high = np.percentile(sample, (5, 95))
    fat = np.mean((sample >= -150) & (sample <= -20)) >= FAT_SHARE
    return bool(high - low >= LEAST_SPREAD_HU and (fat or (stated and voxels.min() < 0))
                and np.mean((sample >= -150) & (sample <= 200)) >= SOFT_TISSUE_SHARE)


def in_hounsfield_units(image: sitk.Image) -> bool:
    """Whether air and soft tissue lie where a CT has them, or much lung does, as in small crops."""
    if image.GetPixelID() in EIGHT_BIT:
        return False
    voxels = sitk.GetArrayViewFromImage(image)
    step = max(1, round((voxels.size / _SAMPLE_VOXELS) ** (1 / 3)))
    sample = voxels[:: min(step, max(1, voxels.shape[0] // 8)), ::step, ::step]

    def share(low: float, high: float) -> float:
        return float(np.mean((sample >= low) & (sample <= high)))

    air_or_lung, soft_tissue = share(-1100, -600), share(-150, 150)
    # An MR phase image has as many large positive values as negative ones; a body has less bone.
    dark, bone = share(-np.inf, -500), share(500, np.inf)
    lung = share(-970, -600)  # without the air around a body, which may be any scan's background
    there = (air_or_lung > 0.005 and soft_tissue > 0.05) or lung > LUNG_SHARE
    return there and dark > 1.5 * bone


def given_note(image: sitk.Image, given: str | None, settled: Modality) -> str:
    """A warning where the caller's word stands against the values of a scan; else ""."""
    if given is None:
        return ""
    inside = is_inside_body(sitk.GetArrayViewFromImage(image), stated=settled == "CT")
    if (in_hounsfield_units(image) or inside) == (settled == "CT"):
        return ""
    if settled == "MR":
        return ("The scan was taken for MR, as given, but its values look like the Hounsfield "
                "units of a CT: if it is one, state CT and run again.")
    return ("The scan was taken for CT, as given, but its values do not look like Hounsfield "
            "units: if it is an MR scan, state MR and run again.")


def doubtful_note(image: sitk.Image) -> str:
    """A warning where a scan that is taken for MR by its values may be a CT; "" where not."""
    if is_inside_body(sitk.GetArrayViewFromImage(image)):
        return ("The scan was taken for MR, but its values may be those of a CT inside a body, "
                "without air: if it is a CT, state CT and run again.")
    return _offset_note(image)


def _offset_note(image: sitk.Image) -> str:
    """A warning where the values look like those of a CT that were moved; else "".

    Of the body of 78 CTs with 1024 added, 80 % and more lay where soft tissue and fat are then, but
    in crops of lungs; of MR scans at most 71 %.
    """
    voxels = sitk.GetArrayViewFromImage(image).ravel()
    sample = voxels[:: max(1, voxels.size // _SAMPLE_VOXELS)].astype(np.float32) - OFFSET_HU
    body = sample[sample > -500]
    if float(sample.min()) < -1100 or body.size < sample.size / 20:
        return ""
    if np.mean(np.abs(body) <= 150) < OFFSET_SHARE:
        return ""
    return (f"The scan was taken for MR, but its values look like those of a CT with {OFFSET_HU} "
            f"added: if it is a CT, subtract {OFFSET_HU} and run again.")


def guess_sequence(*names: str) -> Sequence:
    """The MR sequence that file, folder or series names hint at; "" when none or more than one.

    Args:
        names: the most specific name first; the first that hints at a sequence decides.
    """
    for name in names:
        sequence = _sequence_in(name)
        if sequence:
            return sequence
    return ""


def guess_skull_stripped(*names: str) -> bool:
    """Whether a file, folder or series name says that nothing but the brain is left."""
    words = {word for name in names for word in re.split(r"[^a-z0-9]+", name.lower())}
    return any(_STRIPPED.fullmatch(word) for word in words)


def _sequence_in(name: str) -> Sequence:
    words = [word for word in re.split(r"[^a-z0-9+*]+", name.lower()) if word]
    if _OTHER_MEANING.intersection(words):
        return ""
    flair = any(_FLAIR.fullmatch(word) for word in words)
    t2 = any(_T2.fullmatch(word) for word in words)
    t1 = [index for index, word in enumerate(words) if _T1.fullmatch(word)]
    t1_contrast = any(_T1_CONTRAST.fullmatch(word) for word in words)
    if sum((flair or t2, bool(t1) or t1_contrast)) != 1:
        return ""
    if flair:
        return "flair"
    if t2:
        return "t2"
    followed_by_c = any(words[index + 1 : index + 2] == ["c"] for index in t1)
    enhanced = bool(_CONTRAST.intersection(words)) and not _WITHOUT.intersection(words)
    return "t1c" if t1_contrast or followed_by_c or enhanced else "t1"
