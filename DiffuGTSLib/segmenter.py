"""The whole method: a scan and a text in, lesions and the evidence for them out.

Reads like METHOD.md: encode, attend, inpaint, compare, refine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DiffuGTSLib import volume
from DiffuGTSLib.attention import MODALITIES, Texts
from DiffuGTSLib.device import choose_device, precision
from DiffuGTSLib.errors import ModalityMismatch
from DiffuGTSLib.foundation.conditioning import REGION_SPANS, Conditioning
from DiffuGTSLib.grid import (
    Canonical,
    boxes_to_input_grid,
    image_on_input_grid,
    to_canonical,
)
from DiffuGTSLib.inpainting import (
    Box,
    CandidateOptions,
    Candidates,
    find_candidates,
    inpaint,
    latent_mask,
)
from DiffuGTSLib.models import EMBEDDED, Package, load
from DiffuGTSLib.progress import Callback, Progress
from DiffuGTSLib.prompt import Prompt, understand
from DiffuGTSLib.residual import feature_residual, pixel_residual
from DiffuGTSLib.result import Evidence, Result
from DiffuGTSLib.text import TextEncoder

MULTIPLE = 16  # voxels: the coarsest level of the attention's context
SMALLEST = 48


@dataclass(frozen=True)
class PreparedScan:
    """A scan that was read and brought to the model's grid; no network has seen it yet."""

    scan: volume.Scan
    canonical: Canonical


@dataclass(frozen=True)
class EncodedScan:
    """A scan that prompts can be asked of, without encoding it again.

    Attributes:
        canonical: the scan on the model's grid.
        latent: mu(E(I)) x scale, (1, L, X/4, Y/4, Z/4).
        joined: adapted features with their context, a tensor a level.
        gate_queries: (1, G, X/2, Y/2, Z/2).
        image: the scan as it was given.
        name: for tables; no path.
        class_label: the denoiser's, of modality and sequence.
    """

    canonical: Canonical
    latent: torch.Tensor
    joined: list[torch.Tensor]
    gate_queries: torch.Tensor
    image: sitk.Image
    name: str
    class_label: int


@dataclass(frozen=True)
class Preview:
    """What can be shown before the long part begins, on the input's grid.

    Attributes:
        attention: float32, the AOVA map.
        candidates: uint8, where healthy tissue will be painted.
    """

    attention: sitk.Image
    candidates: sitk.Image


class Segmenter:
    """Segments what a text names, in CT and MR.

    Example:
        >>> segmenter = Segmenter.from_pretrained("embedded")        # doctest: +SKIP
        >>> scan = segmenter.encode("chest.nii.gz")                  # doctest: +SKIP
        >>> result = segmenter.segment(scan, "lung tumor")           # doctest: +SKIP
    """

    def __init__(self, package: Package, device: str = "cpu") -> None:
        self.package = package
        self.device = device
        self.text_encoder = TextEncoder.from_package()  # prompts are understood by it, always
        self.options = CandidateOptions(least_crop=package.card.least_crop)
        self.multiple = max(MULTIPLE, package.multiple)
        self.smallest = -(-SMALLEST // self.multiple) * self.multiple

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path = EMBEDDED, device: str = "auto"
    ) -> Segmenter:
        """A segmenter with a model of the catalogue, or from a model package's folder.

        Args:
            device: "auto", "cpu", "cuda" or "cuda:N".

        Raises:
            ModelMissing, ModelDamaged: the package, or the text encoder.
            AttentionMissing: the model's attention has not been trained.
        """
        chosen = choose_device(device)
        return cls(load(name_or_folder, chosen), chosen)

    def prepare(self, scan: volume.Scan) -> PreparedScan:
        """Brings a scan to the model's grid: all that can be done while the networks are busy
        with another one.

        Raises:
            ModalityMismatch: the model was not made for it.
            SequenceUnknown: the model has to know the MR sequence.
        """
        card = self.package.card
        if scan.modality not in card.modalities:
            raise ModalityMismatch(
                f"The model “{card.name}” was not made for {scan.modality}.",
                f"It reads {' and '.join(card.modalities)}; choose another model.",
            )
        self._class_label(scan)
        canonical = to_canonical(
            scan.image, scan.modality, card.spacing_mm, self.multiple, self.smallest
        )
        return PreparedScan(scan, canonical)

    def encode(
        self,
        image: sitk.Image | Path | str | PreparedScan,
        modality: str | None = None,
        progress: Callback | Progress | None = None,
        sequence: str | None = None,
        skull_stripped: bool | None = None,
    ) -> EncodedScan:
        """Reads and checks a scan, brings it to the model's grid and encodes it, once for all
        prompts.

        Args:
            image: a 3D scalar image, the path of a file or DICOM folder, or what `prepare` made.
            modality: "CT" or "MR"; guessed where it is not told.
            sequence: of an MR scan, "t1", "t1c", "t2", "flair" or "other"; by the scan's names
                where it is not told.
            skull_stripped: nothing but the brain is left; by the scan's names too.

        Raises:
            DiffuGTSError: the scan cannot be read or does not fit; see errors.py.
            Cancelled: through `progress`.
        """
        steps = _progress(progress)
        steps.step("read", 0, 1)
        if isinstance(image, PreparedScan):
            ready = image
        elif isinstance(image, sitk.Image):
            scan = volume.from_image(image, modality)
            ready = self.prepare(as_told(scan, sequence, skull_stripped))
        else:
            scan = volume.read(image, modality)
            ready = self.prepare(as_told(scan, sequence, skull_stripped))
        scan, canonical = ready.scan, ready.canonical
        steps.step("read", 1, 1)
        steps.step("encode", 0, 2)
        with torch.inference_mode(), precision(self.device):
            x = canonical.tensor.to(self.device)
            x = x.contiguous(memory_format=torch.channels_last_3d)
            latent, features = self.package.autoencoder.encode_with_features(x)
            steps.step("encode", 1, 2)
            which = torch.tensor([MODALITIES.index(scan.modality)], device=self.device)
            joined, gate_queries = self.package.attention.visual(features, which)
        steps.step("encode", 2, 2)
        scaled = latent.float() * self.package.card.scale_factor
        return EncodedScan(
            canonical, scaled, joined, gate_queries, scan.image, scan.name,
            self._class_label(scan),
        )

    def segment(
        self,
        scan: EncodedScan,
        prompt: str,
        *,
        progress: Callback | Progress | None = None,
        seed: int = 0,
        threshold: float | None = None,
        samples: int | None = None,
        preview: Callable[[Preview], None] | None = None,
    ) -> Result:
        """Segments what `prompt` names in an encoded scan.

        Args:
            progress: callback(stage, done, total), or the object that a caller can cancel.
            seed: of the inpainting; the same seed gives the same mask on one machine.
            threshold: of the refined score, 0 to 1; the model's own where it is not told.
            samples: pseudo-healthy scans to draw; their spread is the uncertainty.
            preview: called once with the attention, well before the end.

        Raises:
            PromptNotUnderstood: with the nearest prompts that are.
            Cancelled: through `progress`.
        """
        steps = _progress(progress)
        card = self.package.card
        asked = understand(prompt, self.text_encoder)
        steps.step("attention", 0, 1)
        attention = self.attend(scan, asked)
        level = card.threshold if threshold is None else threshold
        candidates = find_candidates(
            attention, min(level, card.threshold), scan.canonical.spacing, self.options,
            self.package.autoencoder.downscale, self.multiple,
        )
        steps.step("attention", 1, 1)
        evidence = Evidence.nothing(attention, candidates)
        result = Result(asked, evidence, scan.canonical, scan.image, level)
        if preview is not None:
            preview(_preview(result, candidates))
        drawn = card.samples if samples is None else samples
        told = Conditioning(
            scan.class_label, scan.canonical.spacing, REGION_SPANS[asked.region], card.guidance
        )
        self._compare(scan, candidates, evidence, told, seed, drawn, steps)
        steps.step("lesions", 0, 1)
        _ = result.lesions  # measured here, so that the caller's thread does not wait for it
        steps.step("lesions", 1, 1)
        return result

    def attend(self, scan: EncodedScan, prompt: Prompt) -> np.ndarray:
        """The calibrated AOVA map of a prompt, float32 (X, Y, Z), canonical grid (METHOD.md 2)."""
        texts = self._texts(prompt)
        with torch.inference_mode(), precision(self.device):
            maps = self.package.attention.attend(scan.joined, scan.gate_queries, texts)
            gated = maps.probability() if prompt.gate else torch.sigmoid(maps.anomaly)
            shift = self.package.card.calibration.get(
                f"{prompt.anatomy}/{scan.canonical.modality}", 0.0
            )
            calibrated = torch.sigmoid(torch.logit(gated[0, 0].float(), eps=1e-7) + shift)
        return calibrated.cpu().numpy()

    def _class_label(self, scan: volume.Scan) -> int:
        return self.package.card.class_label(scan.modality, scan.sequence, scan.skull_stripped)

    def _texts(self, prompt: Prompt) -> Texts:
        encode = (self.package.text_encoder or self.text_encoder).encode_ensemble
        gate = prompt.gate or prompt.normal
        rows = (encode(texts)[None].to(self.device)
                for texts in (prompt.normal, prompt.abnormal, gate))
        return Texts(*rows)

    def _compare(
        self, scan: EncodedScan, candidates: Candidates, evidence: Evidence, told: Conditioning,
        seed: int, samples: int, steps: Progress,
    ) -> None:
        """Pseudo-healthy scan, residuals and refined score, crop by crop (METHOD.md 3 and 4),
        written into `evidence`."""
        total = len(candidates.boxes) * samples * self.package.card.steps
        for number, box in enumerate(candidates.boxes):
            scores = []
            done = number * samples * self.package.card.steps
            for sample in range(samples):
                # A generator a crop and sample: no crop's outcome depends on the others.
                generator = torch.Generator().manual_seed(seed * 7919 + number * 101 + sample)
                start = done + sample * self.package.card.steps
                scores.append(self._healthy(
                    scan, candidates, box, told, generator, steps, start, total
                ))
            steps.step("residual", number, len(candidates.boxes))
            self._fuse(scan, candidates, box, scores, evidence)
        steps.step("residual", 1, 1)

    def _healthy(
        self, scan: EncodedScan, candidates: Candidates, box: Box, told: Conditioning,
        generator: torch.Generator, steps: Progress, done: int, total: int,
    ) -> torch.Tensor:
        """One pseudo-healthy latent of a crop, scaled."""
        package, factor = self.package, self.package.autoencoder.downscale
        latent = scan.latent[(slice(None), slice(None), *_coarser(box, factor))]
        mask = torch.from_numpy(np.ascontiguousarray(candidates.mask[box]))
        schedule = package.schedule(package.card.steps, latent[0, 0].numel())
        with torch.inference_mode(), precision(self.device):
            return inpaint(
                package.denoiser, schedule, latent, latent_mask(mask, factor).to(latent),
                told, generator, steps, done, total, package.card.resamplings,
            )

    def _fuse(
        self, scan: EncodedScan, candidates: Candidates, box: Box, latents: list[torch.Tensor],
        evidence: Evidence,
    ) -> None:
        """Residuals of a crop against its pseudo-healthy samples, written into `evidence`."""
        vae, scale = self.package.autoencoder, self.package.card.scale_factor
        crop = (slice(None), slice(None), *_coarser(box, vae.downscale))
        with torch.inference_mode(), precision(self.device):
            rebuilt = vae.decode(scan.latent[crop] / scale).float()
            features = vae.encode_with_features(rebuilt)[1]
            healthy = [vae.decode(z / scale).float() for z in latents]
            mean = torch.stack(healthy).mean(0)
            twin = vae.encode_with_features(mean)[1]
            far = feature_residual(features, twin, rebuilt.shape[2:])
            near = torch.stack([pixel_residual(rebuilt, h) for h in healthy]).mean(0)[0, 0]
            spread = torch.stack(healthy).std(0, unbiased=False)[0, 0]
        evidence.write(
            box, candidates.mask[box], self.package.card.fusion[scan.canonical.modality],
            healthy=mean[0, 0].cpu().numpy(), pixel=near.cpu().numpy(),
            feature=far.float().cpu().numpy(), spread=spread.cpu().numpy(),
        )


def as_told(
    scan: volume.Scan, sequence: str | None, skull_stripped: bool | None
) -> volume.Scan:
    """The scan with what the caller knows of it in the place of what its names say.

    Raises:
        ModalityMismatch: a sequence of a CT.
    """
    if sequence and scan.modality == "CT":
        raise ModalityMismatch("A CT has no MR sequence.", "Leave the sequence out, or state MR.")
    stripped = scan.skull_stripped if skull_stripped is None else skull_stripped
    return replace(scan, sequence=sequence or scan.sequence, skull_stripped=stripped)


def _progress(given: Callback | Progress | None) -> Progress:
    return given if isinstance(given, Progress) else Progress(given)


def _coarser(box: Box, factor: int) -> Box:
    """A crop's box on the latent's grid."""
    x, y, z = (slice(s.start // factor, s.stop // factor) for s in box)
    return x, y, z


def _preview(result: Result, candidates: Candidates) -> Preview:
    cores = candidates.cores.astype(np.float32)
    inside = boxes_to_input_grid(cores, result.boxes, result.canonical) > 0.5
    return Preview(
        result.attention, image_on_input_grid(inside.astype(np.uint8), result.canonical)
    )
