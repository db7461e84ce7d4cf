"""What is compared of a crop, and what is kept of it between prompts: the same results for less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.models.package import Package, load
from DiffuGTSLib.networks import Conditioning
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.pipeline import EncodedScan, Segmenter, memory_plan, refinement
from DiffuGTSLib.pipeline.inpainting import Box, Candidates
from DiffuGTSLib.pipeline.refinement import MAX_KEPT, CropComparison, RebuiltCrops
from DiffuGTSLib.pipeline.residual import Rebuilt
from DiffuGTSLib.pipeline.result import Result
from DiffuGTSLib.progress import Progress

MAPS = ("attention", "mask", "healthy", "pixel", "feature", "residual", "uncertainty", "score")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("tiny")), "cpu")


@pytest.fixture
def scan(segmenter: Segmenter) -> EncodedScan:
    return segmenter.encode(ball_scan()[0], "MR")


def same(one: Result, other: Result) -> bool:
    return all(np.array_equal(getattr(one.evidence, name), getattr(other.evidence, name))
               for name in MAPS) and one.lesions == other.lesions


def decodings(segmenter: Segmenter, scan: EncodedScan) -> tuple[int, Result]:
    """How often a prompt decodes a crop, and its result."""
    ran: list[object] = []
    first = segmenter.package.autoencoder.decoder.blocks[0]
    with first.register_forward_pre_hook(lambda module, given: ran.append(module)):
        result = segmenter.segment(scan, PROMPT)
    return len(ran), result


def test_a_second_prompt_decodes_the_inpainted_crops_alone_and_finds_the_same(
    segmenter: Segmenter, scan: EncodedScan
) -> None:
    (first, expected), (second, found) = (decodings(segmenter, scan) for _ in range(2))
    crops = len(scan.rebuilt)
    assert crops > 0
    assert first - second == crops
    assert expected.evidence.feature.max() > 0
    assert same(found, expected)


def test_where_the_plan_needs_the_memory_nothing_is_kept_and_the_same_is_found(
    segmenter: Segmenter, scan: EncodedScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = segmenter.segment(scan, PROMPT)
    assert len(scan.rebuilt)
    x, y, z = scan.canonical.tensor.shape[2:]
    need = next(segmenter.planner.encoding((x, y, z))).need
    _, encoded = segmenter.limits.encoding_bytes((x, y, z), None, torch.float32.itemsize)
    monkeypatch.setattr(memory_plan, "free_bytes", lambda name: need - encoded - 1)
    found = segmenter.segment(scan, PROMPT)
    assert not len(scan.rebuilt)
    assert same(found, expected)


def test_the_plan_has_room_from_the_byte_on_that_it_counts_on(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner, size = segmenter.planner, (64, 64, 64)
    need = next(planner.encoding(size)).need
    _, encoded = segmenter.limits.encoding_bytes(size, None, torch.float32.itemsize)
    for missing in (0, 1):
        monkeypatch.setattr(memory_plan, "free_bytes", lambda name, n=missing: need - encoded - n)
        assert planner.leaves_room(size, "cpu") is not bool(missing)


def test_the_crop_that_was_kept_first_goes_first() -> None:
    kept = RebuiltCrops()
    autoencoder = Autoencoder(num_channels=(8, 8, 8), norm_num_groups=8)
    rebuilt = Rebuilt(autoencoder, torch.zeros(1, 4, 2, 2, 2))
    boxes = [(slice(n, n + 8), slice(0, 8), slice(0, 8)) for n in range(MAX_KEPT + 1)]
    for box in boxes:
        kept.keep(box, rebuilt)
    assert kept.get(boxes[0]) is None
    assert kept.get(boxes[1]) is kept.get(boxes[-1]) is rebuilt


@pytest.fixture(scope="module")
def embedded() -> Package:
    """A model whose autoencoder has no normalisation."""
    return load("embedded")


def crops(package: Package, mask: np.ndarray, boxes: list[Box]) -> CropComparison:
    """A comparison of random tissue, 1 crop a box."""
    latent = torch.randn(1, package.autoencoder.config.latent_channels, 24, 16, 16,
                         generator=torch.Generator().manual_seed(0))
    planner = Segmenter(package).planner
    return CropComparison(
        package, planner, latent, RebuiltCrops(), Candidates(mask, mask, boxes),
        Conditioning(package.card.class_label("CT", ""), (2.0, 2.0, 2.0), (1, 1)), 2, 0,
        Progress(), lambda note: None)


def blob(*spans: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((96, 64, 64), bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


WHOLE = (slice(0, 64), slice(0, 64), slice(0, 64))


def test_around_a_small_candidate_the_part_that_is_compared_gives_what_the_whole_crop_gives(
    embedded: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = blob((25, 35), (30, 38), (28, 40))
    [(part, found)] = crops(embedded, mask, [WHOLE]).compare_each()
    assert part == (slice(16, 48), slice(16, 48), slice(16, 48))
    monkeypatch.setattr(refinement, "_REACH", 99)
    [(whole, expected)] = crops(embedded, mask, [WHOLE]).compare_each()
    assert whole == WHOLE
    for name in ("healthy", "pixel", "feature", "spread"):
        here, there = getattr(found, name)[mask[part]], getattr(expected, name)[mask[whole]]
        assert there.abs().max() > 0
        assert float((here - there).abs().mean() / there.abs().mean()) < 0.05, name


def test_a_part_ends_where_its_crop_ends(embedded: Package) -> None:
    mask = blob((0, 8), (50, 64), (0, 64))
    [(part, found)] = crops(embedded, mask, [WHOLE]).compare_each()
    assert part == (slice(0, 16), slice(40, 64), slice(0, 64))
    assert found.pixel.shape == (16, 24, 64)


def test_what_lies_in_two_crops_is_compared_in_the_first_alone(embedded: Package) -> None:
    shared, own = blob((36, 44), (30, 38), (28, 40)), blob((80, 84), (30, 34), (30, 34))
    second = (slice(32, 96), slice(0, 64), slice(0, 64))
    boxes = [WHOLE, second]
    parts = [part for part, _ in crops(embedded, shared | own, boxes).compare_each()]
    assert parts == [(slice(24, 56), slice(16, 48), slice(16, 48)),
                     (slice(72, 96), slice(16, 48), slice(16, 48))]
    assert [part for part, _ in crops(embedded, shared, boxes).compare_each()] == parts[:1]


def test_a_normalising_autoencoder_sees_the_whole_crop(segmenter: Segmenter) -> None:
    mask = blob((25, 35), (30, 38), (28, 40))
    assert [part for part, _ in crops(segmenter.package, mask, [WHOLE]).compare_each()] == [WHOLE]
