"""Figures of each stage on small crops of real scans, to notice when anything moves.

    python Testing/Python/support/golden.py DATA    # writes golden.json anew, after new weights
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.pipeline.segmenter import Segmenter

FILE = Path(__file__).with_name("golden.json")
# Case: modality, prompt, first voxel and size of the crop (x, y, z).
CROPS = {
    "sarcoma/sts_033_ct": ("CT", "soft tissue sarcoma", (10, 10, 5), (75, 80, 50)),
    "brain/fg-6692_fla": ("MR", "brain tumor", (40, 40, 40), (120, 130, 90)),
}


def figures(segmenter: Segmenter, data: Path, case: str) -> dict[str, list[float]]:
    """By stage: what comes out of it, in a few numbers."""
    modality, prompt, first, size = CROPS[case]
    image = sitk.ReadImage(str(data / case / "image.nii.gz"))
    crop = sitk.RegionOfInterest(image, size, first)
    scan = segmenter.encode(crop, modality)
    result = segmenter.segment(scan, prompt)
    evidence = result.evidence
    inside = evidence.mask if evidence.mask.any() else np.ones_like(evidence.mask)
    return {
        "canonical": _numbers(scan.canonical.tensor.numpy()),
        "latent": _numbers(scan.latent.float().numpy()),
        "context": _numbers(scan.features[2].float().numpy()),
        "attention": _numbers(evidence.attention),
        "painted": [float(evidence.mask.mean())],
        "healthy": _numbers(evidence.healthy[inside]),
        "residual": _numbers(evidence.residual[inside]),
        "score": _numbers(evidence.score[inside]),
        "volume_ml": [sum(lesion.volume_ml for lesion in result.lesions)],
    }


def _numbers(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.std()), float(np.percentile(values, 99))]


def main() -> None:
    """Writes golden.json from the embedded model as it is."""
    segmenter = Segmenter.from_pretrained("embedded", "cpu")
    made = {case: figures(segmenter, Path(sys.argv[1]), case) for case in CROPS}
    FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
