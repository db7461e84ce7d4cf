"""A scan that is seen mirrored, too: what that does to the maps, and what it needs."""

from __future__ import annotations

import copy

import pytest
import torch
from support.memory_runs import (
    CT,
    IN_SLABS,
    SIZE,
    Networks,
    _float32,
    all_maps,
    image,
    networks,
    stage_peaks,
    texts,
)
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.networks.attention import Maps, Texts
from DiffuGTSLib.pipeline.encoding import encode
from DiffuGTSLib.pipeline.memory_plan import Plan
from DiffuGTSLib.pipeline.scan_size import TILINGS
from DiffuGTSLib.pipeline.segmenter import Segmenter

__all__ = ["_float32", "networks", "texts"]


@pytest.fixture
def mirrored(networks: Networks) -> Networks:
    attention = copy.deepcopy(networks.attention)
    attention.register_to_config(mirrors=[0, 1])
    return networks._replace(attention=attention)


def mapped(networks: Networks, x: torch.Tensor, texts: Texts) -> Maps:
    return all_maps(networks, encode(networks.autoencoder, networks.attention, x, CT), texts)


@torch.inference_mode()
def test_the_logits_are_the_mean_of_those_of_the_scan_and_its_mirror_images(
    networks: Networks, mirrored: Networks, texts: Texts
) -> None:
    x = image()
    alone = mapped(networks, x, texts).anomaly
    turned = [mapped(networks, x.flip(axis), texts).anomaly.flip(axis) for axis in (2, 3)]
    found = mapped(mirrored, x, texts).anomaly
    assert (turned[0] - alone).abs().max() > 0.01
    torch.testing.assert_close(found, (alone + sum(turned)) / 3, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_right_and_left_are_alike_to_a_model_that_sees_both(
    networks: Networks, texts: Texts
) -> None:
    attention = copy.deepcopy(networks.attention)
    attention.register_to_config(mirrors=[0])
    both = networks._replace(attention=attention)
    x = image()
    found, turned = (mapped(both, given, texts) for given in (x, x.flip(2)))
    for name in ("anomaly", "gate"):
        torch.testing.assert_close(getattr(turned, name).flip(2), getattr(found, name),
                                   rtol=1e-4, atol=1e-5)


def test_the_plan_makes_room_for_it(networks: Networks, mirrored: Networks) -> None:
    taken = stage_peaks(mirrored, SIZE, None).encode
    (least, _), (once, _) = (
        made.limits().encoding_bytes(SIZE, None, torch.float32.itemsize)
        for made in (mirrored, networks)
    )
    assert once < taken < least < 1.5 * taken


@torch.inference_mode()
def test_each_look_is_a_step_and_a_large_scan_is_not_mirrored(
    networks: Networks, mirrored: Networks, texts: Texts
) -> None:
    steps: list[tuple[int, int]] = []
    encode(mirrored.autoencoder, mirrored.attention, image(), CT,
           progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    cut = encode(mirrored.autoencoder, mirrored.attention, image(), CT, IN_SLABS)
    torch.testing.assert_close(all_maps(mirrored, cut, texts).anomaly,
                               mapped(networks, image(), texts).anomaly, rtol=1e-4, atol=1e-4)


def test_the_result_says_where_a_scan_was_too_large_for_it(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    segmenter.package.attention.register_to_config(mirrors=[0])
    scan = segmenter.encode(ball_scan()[0], "MR")
    assert segmenter.segment(scan, PROMPT).notes == []
    monkeypatch.setattr(segmenter, "_plans", lambda _: iter([Plan("cpu", TILINGS[-1], 0)]))
    scan = segmenter.encode(ball_scan()[0], "MR")
    assert segmenter.segment(scan, PROMPT).notes == [
        "The scan is too large to be looked at mirrored as well."]
