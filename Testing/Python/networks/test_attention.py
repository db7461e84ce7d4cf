"""The AOVA maps: folding, gates, whitening, independence of the crop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from DiffuGTSLib.networks.attention import Adapter, AnomalyAttention, Maps, Texts, closed


def features(size: int = 48, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, c, *[size // s] * 3, generator=generator)
        for c, s in ((8, 1), (12, 2), (16, 4))
    ]


def image(size: int = 48) -> torch.Tensor:
    return torch.rand(1, 1, size, size, size, generator=torch.Generator().manual_seed(3))


def texts(count: int = 2, seed: int = 1) -> Texts:
    generator = torch.Generator().manual_seed(seed)
    return Texts(*(F.normalize(torch.randn(count, 384, generator=generator), dim=1)
                   for _ in range(3)))


@pytest.fixture(scope="module")
def model() -> AnomalyAttention:
    torch.manual_seed(0)
    made = AnomalyAttention(feature_channels=(8, 12, 16), context_channels=(16, 16, 16),
                            gate_channels=8)
    for parameter in made.parameters():  # what starts at zero would test nothing
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return made.requires_grad_(False)


CT = torch.tensor([0])


def test_maps_have_the_scans_size_and_a_row_a_prompt(model: AnomalyAttention) -> None:
    maps = model(features(), CT, image(), texts(3))
    assert maps.anomaly.shape == maps.gate.shape == (1, 3, 48, 48, 48)
    assert 0 <= maps.probability().min() <= maps.probability().max() <= 1


def test_folded_attention_equals_queries_times_keys(model: AnomalyAttention) -> None:
    joined, gate_queries = model.visual(features(), CT, image())
    asked = texts(2)
    total = torch.zeros(1, 2, 48, 48, 48)
    for level, visual in enumerate(joined):
        queries = model.queries[level](visual)  # W_q F'
        normal, abnormal = model.keys_of_level(asked, level)  # W_k t
        scores = [torch.einsum("ncxyz,tc->ntxyz", queries, k) / math.sqrt(queries.shape[1])
                  for k in (normal, abnormal)]
        generic = torch.einsum("ncxyz,c->nxyz", queries, model.generic[level])[:, None]
        apart = scores[1] - scores[0] + generic / math.sqrt(queries.shape[1])
        # Trilinear interpolation is linear: level by level, or folded into the coarser first.
        while apart.shape[-1] < 48:
            finer = [2 * n for n in apart.shape[2:]]
            apart = F.interpolate(apart, size=finer, mode="trilinear")
        total += apart
    maps = model.attend(joined, gate_queries, asked)
    assert torch.allclose(maps.anomaly, total + model.anomaly_bias, atol=1e-4)


def test_exchanging_normal_and_abnormal_turns_the_map_around(model: AnomalyAttention) -> None:
    asked = texts(1)
    turned = Texts(asked.abnormal, asked.normal, asked.gate)
    same = Texts(asked.normal, asked.normal, asked.gate)  # bias and generic part alone
    bias = model(features(), CT, image(), same).anomaly
    there = model(features(), CT, image(), asked).anomaly - bias
    back = model(features(), CT, image(), turned).anomaly - bias
    assert torch.allclose(there, -back, atol=1e-4)
    assert there.abs().max() > 0.1


def test_a_prompt_is_answered_alike_alone_and_among_others(model: AnomalyAttention) -> None:
    asked = texts(3)
    alone = Texts(asked.normal[1:2], asked.abnormal[1:2], asked.gate[1:2])
    among = model(features(), CT, image(), asked).probability()[:, 1]
    found = model(features(), CT, image(), alone).probability()[:, 0]
    assert torch.allclose(found, among, atol=1e-5)


def test_the_gate_depends_on_the_gate_text_alone(model: AnomalyAttention) -> None:
    asked, other = texts(1, seed=1), texts(1, seed=2)
    same_gate = Texts(other.normal, other.abnormal, asked.gate)
    first, second = model(features(), CT, image(), asked), model(features(), CT, image(), same_gate)
    assert torch.equal(first.gate, second.gate)
    assert not torch.allclose(first.anomaly, second.anomaly)


def test_modality_changes_the_map(model: AnomalyAttention) -> None:
    ct, mr = (model(features(), torch.tensor([m]), image(), texts(1)).anomaly for m in (0, 1))
    assert not torch.allclose(ct, mr)


def test_a_closed_gate_leaves_nothing() -> None:
    maps = Maps(torch.full((1, 1, 4, 4, 4), 9.0), torch.full((1, 1, 4, 4, 4), -20.0))
    assert maps.probability().max() < 1e-6


def test_whitened_texts_are_uncorrelated_and_of_one_length(model: AnomalyAttention) -> None:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(384, 384, generator=generator)
    crowd = F.normalize(2 + 0.2 * torch.randn(400, 384, generator=generator) @ mixing, dim=1)
    fresh = AnomalyAttention(feature_channels=(8, 12, 16), context_channels=(16, 16, 16))
    fresh.set_statistics(crowd, [torch.zeros(c) for c in (8, 12, 16)],
                         [torch.ones(c) for c in (8, 12, 16)])
    moved = (crowd - fresh.text_mean) @ fresh.text_basis
    assert torch.allclose(torch.cov(moved.T), torch.eye(48), atol=1e-2)
    assert torch.allclose(fresh.whiten(crowd).norm(dim=1), torch.tensor(48.0).sqrt(), atol=1e-3)


def test_adapters_mix_at_the_constant_ratio() -> None:
    adapter = Adapter(4, 0.1).requires_grad_(False)
    x = torch.randn(1, 4, 3, 3, 3)
    assert torch.allclose(adapter(x), 0.1 * adapter.second(F.silu(adapter.first(x))) + 0.9 * x)


def test_saved_and_loaded_it_answers_the_same(model: AnomalyAttention, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AnomalyAttention.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert torch.allclose(loaded(features(), CT, image(), texts(1)).anomaly,
                          model(features(), CT, image(), texts(1)).anomaly, atol=1e-4)


def test_the_closed_gate_fills_a_hole_and_keeps_the_outline() -> None:
    gate = torch.zeros(1, 1, 20, 20, 20)
    gate[..., 4:16, 4:16, 4:16] = 1
    holed = gate.clone()
    holed[..., 9:12, 9:12, 9:12] = 0
    assert torch.equal(closed(holed, 5), gate)


def test_the_closed_gate_is_not_joined_to_the_scans_edge() -> None:
    gate = torch.zeros(1, 1, 20, 20, 20)
    gate[..., 2:16, 4:16, 4:16] = 1
    assert torch.equal(closed(gate, 5), gate)
