"""What a denoiser is told besides the noisy latent and its level.

Source: METHOD.md 1. Spacing in mm x 100, body regions one-hot x 100, a class of modality and
sequence; classifier-free guidance against the class 0, "unknown", as MAISI was trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from DiffuGTSLib.foundation.denoiser import REGIONS, Denoiser

UNKNOWN = 0
# The uppermost and the lowest body region of a prompt's place, as indices into head and neck,
# thorax, abdomen, pelvis and legs. Where it may be anywhere: the trunk, of which MAISI saw most.
REGION_SPANS = {
    "head": (0, 0), "thorax": (1, 1), "abdomen": (2, 2), "pelvis": (3, 3), "any": (1, 2),
}


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of one scan and prompt; what the denoiser does not take is left out.

    Attributes:
        class_label: of modality and sequence.
        spacing_mm: of the grid that the latent belongs to (not of the latent), X, Y, Z.
        regions: indices of the uppermost and the lowest body region.
        guidance: of classifier-free guidance; 0 for none. The output is u + guidance (c - u),
            where c is the denoiser's for the class and u the one for the class "unknown".
    """

    class_label: int = UNKNOWN
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    regions: tuple[int, int] = REGION_SPANS["any"]
    guidance: float = 0.0

    def predict(
        self, denoiser: Denoiser, z: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's output for a noisy latent z (N, C, X, Y, Z) at `timestep`, guided.

        Two passes where it is guided: one after the other, so that memory is that of one. Guidance
        multiplies a difference, which is taken in float32 also where the denoiser computes in half
        precision. The output has z's own type.
        """
        output = self._pass(denoiser, z, timestep, self.class_label)
        if self._guides(denoiser):
            blind = self._pass(denoiser, z, timestep, UNKNOWN)
            output = blind + self.guidance * (output - blind)
        return output.to(z.dtype)

    def passes(self, denoiser: Denoiser) -> int:
        """How often the denoiser runs in a step."""
        return 2 if self._guides(denoiser) else 1

    def _pass(
        self, denoiser: Denoiser, z: torch.Tensor, timestep: torch.Tensor, label: int
    ) -> torch.Tensor:
        told = self._told(denoiser, z, label)
        return denoiser(z, timestep, **told).float()

    def _guides(self, denoiser: Denoiser) -> bool:
        return self.guidance > 0 and denoiser.config.num_class_embeds is not None

    def _told(self, denoiser: Denoiser, z: torch.Tensor, label: int) -> dict[str, torch.Tensor]:
        """The keyword arguments of the denoiser, for each of the batch."""
        count, config = len(z), denoiser.config
        told = {}
        if config.num_class_embeds is not None:
            told["class_labels"] = torch.full((count,), label, device=z.device)
        if config.include_spacing_input:
            spacing = torch.tensor([self.spacing_mm], device=z.device) * 100.0
            told["spacing"] = spacing.expand(count, -1)
        top, bottom = (
            torch.eye(REGIONS, device=z.device)[region].expand(count, -1) * 100.0
            for region in self.regions
        )
        if config.include_top_region_index_input:
            told["top_region"] = top
        if config.include_bottom_region_index_input:
            told["bottom_region"] = bottom
        return told
