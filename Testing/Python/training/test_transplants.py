"""Real lesions in other scans: where they land, how bright they are, and which scans give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DiffuGTSLib.training.data.scan_table import ORGANS, scan_table
from DiffuGTSLib.training.data.transplants import Transplants
from DiffuGTSLib.training.data.windows import LabelledVolume, WindowSampler

CT, MR = 0, 1
LESION = (slice(20, 30), slice(20, 28), slice(16, 22))


def scan(kind_name: str, modality: int, sequence: str = "", tissue: float = 0.5,
         lesion: float | None = None) -> LabelledVolume:
    """A box of an organ in air, with a lesion of another brightness in it or without one."""
    kind = scan_table().kinds[kind_name]
    organ = kind.prompted_organ or next(iter(kind.synthetic))
    image, index, mask = np.zeros((3, 56, 48, 40), np.float32)
    image[6:50, 6:42, 6:34], index[6:50, 6:42, 6:34] = tissue, ORGANS.index(organ) + 1
    if lesion is not None:
        image[LESION], mask[LESION] = lesion, 1
    stack = np.stack([image, index, mask, np.zeros_like(image)])
    return LabelledVolume(kind, torch.from_numpy(stack), np.array(kind.known_organs), modality,
                          sequence=sequence)


def put(host: LabelledVolume, transplants: Transplants, organ: str, seed: int = 0):
    image, index = host.stack[0].numpy(), host.stack[1].numpy()
    return transplants.put(image, index == ORGANS.index(organ) + 1, organ, host.modality,
                           host.sequence, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_a_lesion_lies_in_the_organ_and_all_else_stays(seed: int) -> None:
    host = scan("brain", MR, "flair", 0.4)
    added = put(host, Transplants([scan("glioma", MR, "flair", 0.5, 0.9)]), "brain", seed)
    image, organ = host.stack[0].numpy(), host.stack[1].numpy() > 0
    size = (10 * 8 * 6) * np.array([0.7, 1.36]) ** 3 * np.exp([-0.36, 0.36])
    assert size[0] * 0.5 < added.mask.sum() < size[1]
    assert not (added.mask & ~organ).any()
    assert np.array_equal(added.image[:4], image[:4])
    far = ~(added.mask | added.halo)
    assert np.abs(added.image - image)[far & organ].max() < 0.15 * 0.5
    assert np.count_nonzero(added.image != image) < 8 * added.mask.sum() + 2000


def test_an_mr_lesion_keeps_its_ratio_to_the_tissue_and_a_ct_lesion_its_difference() -> None:
    bright = put(scan("brain", MR, "flair", 0.25),
                 Transplants([scan("glioma", MR, "flair", 0.5, 0.9)]), "brain")
    assert bright.image.max() == pytest.approx(0.25 * 1.8, rel=0.05)
    dark = put(scan("liver_tumor", CT, "", 0.54),
               Transplants([scan("liver_tumor", CT, "", 0.52, 0.49)]), "liver")
    assert dark.image[dark.mask].min() == pytest.approx(0.54 - 0.03, abs=0.003)


def test_lesions_come_from_the_same_organ_and_sequence() -> None:
    flair, enhanced = scan("glioma", MR, "flair", 0.5, 0.9), scan("glioma", MR, "t1c", 0.5, 0.9)
    donors = Transplants([flair, enhanced, scan("lung_tumor", CT, "", 0.1, 0.5)])
    assert put(scan("brain", MR, "t2"), donors, "brain") is None
    assert put(scan("abdomen", CT), donors, "liver") is None
    assert put(scan("chest", CT, "", 0.1), donors, "lung") is not None
    found = [put(scan("brain", MR, "t1"), donors, "brain", seed) for seed in range(20)]
    assert 8 <= sum(lesion is not None for lesion in found) < 20  # some ask for a T1's own


def test_scans_without_a_lesion_and_phantoms_give_none() -> None:
    phantom = scan("phantom_brain", MR, "flair", 0.5, 0.9)
    donors = Transplants([scan("glioma", MR, "flair", 0.5), phantom])
    assert put(scan("brain", MR, "flair"), donors, "brain") is None


def test_a_window_of_a_healthy_scan_shows_the_lesion_of_another() -> None:
    """Synthetic MR lesions reach 2.4 times the tissue; the donor's is 5 times as bright."""
    healthy, sick = scan("brain", MR, "flair", 0.1), scan("glioma", MR, "flair", 0.1, 0.5)
    sampler = WindowSampler([healthy, sick], 48)
    drawn = [sampler.maker.window(healthy, [48, 48, 40], None, np.random.default_rng(n))
             for n in range(30)]
    bright = [float(w.image.max()) > 0.3 and bool(w.lesion.any()) for w in drawn]
    assert 3 <= sum(bright) <= 24
