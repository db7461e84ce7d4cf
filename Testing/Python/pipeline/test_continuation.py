"""Smooth continuation into a hole, beside Laplace's equation solved exactly."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import spsolve

from DiffuGTSLib.networks import Denoiser
from DiffuGTSLib.pipeline.inpainting import continued


def ball(size, radius, centre=None):
    grid = np.indices((size,) * 3)
    middle = (size - 1) / 2 if centre is None else centre
    return ((grid - middle) ** 2).sum(0) <= radius**2


def exact(image, mask):
    """Laplace's equation with 26 neighbours of equal weight, as a linear system."""
    inside = np.argwhere(mask)
    number = {tuple(at): i for i, at in enumerate(inside)}
    rows, columns, values, known = [], [], [], np.zeros(len(inside))
    for i, at in enumerate(inside):
        near = [tuple(at + step) for step in np.array(list(np.ndindex(3, 3, 3))) - 1
                if tuple(at + step) != tuple(at)]
        rows += [i] * (1 + sum(n in number for n in near))
        columns += [i, *(number[n] for n in near if n in number)]
        values += [float(len(near)), *(-1.0 for n in near if n in number)]
        known[i] = sum(image[n] for n in near if n not in number)
    out = image.copy()
    out[mask] = spsolve(csr_array((values, (rows, columns))), known)
    return out


def test_it_is_near_the_exact_solution():
    x, y, z = np.indices((16, 16, 16)) / 15
    image, mask = x + np.sin(4 * y) + z * x, ball(16, 5)
    tensors = (torch.from_numpy(a).float()[None, None] for a in (image, mask))
    found = continued(*tensors)[0, 0].numpy()
    assert np.abs(found - exact(image, mask)).max() < 0.05 * np.ptp(image)


def test_outside_nothing_changes_and_inside_does_not_matter():
    latent, mask = torch.randn(2, 3, 12, 8, 10), torch.zeros(2, 1, 12, 8, 10)
    mask[:, :, 3:9, 2:6, 4:8] = 1
    found = continued(latent, mask)
    assert torch.equal(found[mask.expand_as(found) == 0], latent[mask.expand_as(found) == 0])
    other = torch.where(mask > 0, torch.full_like(latent, 1e6), latent)
    assert torch.equal(continued(other, mask), found)


def test_a_constant_goes_on_and_nothing_known_is_zero():
    mask = torch.from_numpy(ball(16, 7, 2)).float()[None, None]
    assert torch.allclose(continued(torch.full((1, 2, 16, 16, 16), 3.0), mask),
                          torch.full((1, 2, 16, 16, 16), 3.0))
    everything = torch.ones(1, 1, 8, 8, 8)
    assert not continued(torch.ones(1, 2, 8, 8, 8), everything).any()


def test_an_untrained_denoiser_gives_the_velocity_towards_the_continuation():
    torch.manual_seed(0)
    network = Denoiser(in_channels=5, out_channels=2, num_channels=(8, 8), norm_num_groups=4,
                       attention_levels=(False, False), num_head_channels=4, continues=True)
    z, smooth, mask = *torch.randn(2, 1, 2, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    with torch.no_grad():
        velocity = network(torch.cat([z, mask, smooth], 1), torch.tensor([400.0]))
    assert torch.allclose(z + 0.4 * velocity, smooth, atol=1e-5)
