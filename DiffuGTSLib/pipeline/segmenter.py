"""The whole method: a scan and a text in, lesions and the evidence for them out.

Its five steps, in the order of METHOD.md and in this order here: 1. encode (`Segmenter.encode`,
once a scan), 2. attend, 3. inpaint, 4. compare, 5. refine (`Segmenter.segment`, once a prompt).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DiffuGTSLib.errors import ModalityMismatch, ResultNotFinite
from DiffuGTSLib.models import Package, load
from DiffuGTSLib.models.card import Fusion
from DiffuGTSLib.models.catalogue import EMBEDDED
from DiffuGTSLib.networks import Conditioning, TextEncoder, Texts, choose_device
from DiffuGTSLib.networks.attention import MODALITIES
from DiffuGTSLib.networks.denoiser import REGION_SPANS
from DiffuGTSLib.networks.device import precision
from DiffuGTSLib.networks.tiling import MIN_MAP_SLAB
from DiffuGTSLib.pipeline.encoded_scan import EncodedScan, PreparedScan
from DiffuGTSLib.pipeline.encoding import Encoding, encode, maps
from DiffuGTSLib.pipeline.inpainting import (
    CandidateOptions,
    Candidates,
    find_candidates,
    midline,
    on_one_side,
)
from DiffuGTSLib.pipeline.memory_plan import Plan, Planner, carry_out
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.pipeline.organ_search import Search, brain_search, in_the_lungs
from DiffuGTSLib.pipeline.refinement import CropComparison
from DiffuGTSLib.pipeline.result import CandidateSearch, Evidence, Result
from DiffuGTSLib.pipeline.scan_size import TILINGS, SizeLimits
from DiffuGTSLib.progress import Callback, Progress, ProgressEstimator
from DiffuGTSLib.prompt import Prompt, understand
from DiffuGTSLib.prompt.lesion_classes import reliability
from DiffuGTSLib.scan import Canonical, Scan, as_scan, to_canonical
from DiffuGTSLib.scan.canonical import boxes_to_input_grid
from DiffuGTSLib.scan.header import ScanGrid
from DiffuGTSLib.scan.nifti import states_sides
from DiffuGTSLib.scan.region import Region, RegionFile, as_region
from DiffuGTSLib.scan.volume import Source, grid_of


@dataclass(frozen=True)
class Preview:
    """What can be shown before the long part begins, on the input's grid.

    Attributes:
        attention: float32, the AOVA map.
        candidates: uint8, where healthy tissue will be inpainted.
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
        self.text_encoder = TextEncoder.from_package()  # prompts are always understood by it
        card = package.card
        self.candidate_options = CandidateOptions(min_crop=card.least_crop)
        self.limits = SizeLimits.of(
            card.spacing_mm, card.least_crop, card.samples, *(n.config for n in package.networks)
        )
        self.notes: list[str] = []
        plans = (Plan(name, None, 0) for name in dict.fromkeys((device, "cpu")))
        self.device = carry_out(plans, self._moved, "The model was loaded", self.notes.append)
        self.planner = Planner(self.limits, self.device)

    def _moved(self, plan: Plan) -> str:
        self.package.place(plan.device)
        return plan.device

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
        return cls(load(name_or_folder), chosen)

    @property
    def model_name(self) -> str:
        """As the model's card has it."""
        return self.package.card.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 that stands for all files of the model."""
        return self.package.fingerprint

    def segment_all(
        self,
        scan: Source | PreparedScan | EncodedScan,
        prompts: Sequence[str],
        options: Options | None = None,
        *,
        progress: Callback | Progress | None = None,
        estimator: ProgressEstimator | None = None,
        preview: Callable[[int, Preview], None] | None = None,
        on_encoded: Callable[[EncodedScan], None] | None = None,
        within: RegionFile | None = None,
    ) -> Iterator[Result]:
        """Runs prompts on one scan, which is encoded once, and yields each result as it is ready.

        Args:
            scan: in any form that `encode` takes, or encoded.
            prompts: all of them are checked before any network runs.
            options: of the run; its model and device are this segmenter's already. What it states
                of the scan counts where the scan is still to be read.
            progress: callback(stage, done, total), or the object that a caller can cancel.
            estimator: gets the index of each prompt before its first step.
            preview: called as preview(index of the prompt, its attention).
            on_encoded: called with the encoded scan, for a caller that keeps it.
            within: mask to which the search is limited.

        Raises:
            PromptNotUnderstood: at once, whichever prompt it is.
            UnreadableImage, RegionUnusable: at once, of the mask.
            DiffuGTSError: while iterating, as `encode` and `segment`.
        """
        understood = [understand(text, self.text_encoder) for text in prompts]
        region = within.read() if within is not None else None
        return self._results(scan, understood, options or Options(), _progress(progress),
                             estimator, preview, on_encoded, region)

    def _results(
        self, scan: Source | PreparedScan | EncodedScan, prompts: list[Prompt], options: Options,
        steps: Progress, estimator: ProgressEstimator | None,
        preview: Callable[[int, Preview], None] | None,
        on_encoded: Callable[[EncodedScan], None] | None, region: Region | None,
    ) -> Iterator[Result]:
        if not isinstance(scan, EncodedScan):
            scan = self._prepared(scan, options.modality, steps, options.sequence,
                                  options.skull_stripped)
            if region is not None:
                region.notes_on(scan.canonical.source)  # another scan's is refused here, at once
            scan = self.encode(scan, progress=steps)
        if on_encoded is not None:
            on_encoded(scan)
        for index, prompt in enumerate(prompts):
            if estimator is not None:
                estimator.start_prompt(index)
            yield self.segment(
                scan, prompt, progress=steps, seed=options.seed, threshold=options.threshold,
                samples=options.samples, preview=partial(preview, index) if preview else None,
                within=region,
            )

    def prepare(self, scan: Scan) -> PreparedScan:
        """Brings a scan to the model's grid: all that can be done while the networks are busy
        with another one.

        Raises:
            ModalityMismatch: the model was not made for it.
            SequenceUnknown: the model has to know the MR sequence.
            TooLarge: the scan on the model's grid and its evidence do not fit into memory.
        """
        card = self.package.card
        if scan.modality not in card.modalities:
            raise ModalityMismatch(
                f"The model “{card.name}” was not made for {scan.modality}.",
                f"It reads {' and '.join(card.modalities)}; choose another model.",
            )
        self._class_label(scan)
        self.planner.check_host(self.limits.size(ScanGrid.of(scan.image)))
        canonical = to_canonical(
            scan.image, scan.modality, card.spacing_mm, self.limits.multiple, self.limits.min_size
        )
        return PreparedScan(scan, canonical)

    def encode(
        self,
        scan: Source | PreparedScan,
        modality: str | None = None,
        progress: Callback | Progress | None = None,
        sequence: str | None = None,
        skull_stripped: bool | None = None,
    ) -> EncodedScan:
        """Step 1: brings a scan to the model's grid and encodes it, once for all prompts.

        Args:
            scan: a `Scan`, or what `as_scan` makes one of: a 3D scalar image, the path of a file
                or of a DICOM folder; or what `prepare` made, for which the other arguments have
                been settled.
            modality: "CT" or "MR"; None takes the scan's own, which is guessed if need be.
            sequence: of an MR scan, "t1", "t1c", "t2", "flair" or "other"; None goes by the
                scan's names.
            skull_stripped: nothing but the brain is left; None goes by the scan's names.

        Raises:
            DiffuGTSError: the scan cannot be read or does not fit; see errors.py.
            Cancelled: through `progress`.
        """
        steps = _progress(progress)
        ready = self._prepared(scan, modality, steps, sequence, skull_stripped)
        notes = [*self.notes, *ready.scan.notes]
        encoded = carry_out(
            self._plans(ready.canonical), lambda plan: self._encoded(ready, plan, steps),
            "The scan was encoded", notes.append,
        )
        if encoded.encoding.fine is not None and self.package.attention.config.mirrors:
            notes.append("The scan is too large to be looked at mirrored as well.")
        return replace(encoded, notes=notes)

    def _prepared(
        self, scan: Source | PreparedScan, modality: str | None, steps: Progress,
        sequence: str | None, skull_stripped: bool | None,
    ) -> PreparedScan:
        """The first part of step 1, which needs no network; see `encode`."""
        if isinstance(scan, PreparedScan):
            return scan
        steps.step("read", 0, 1)
        grid = grid_of(scan)
        if grid is not None:
            self.planner.check(grid)
        prepared = self.prepare(as_scan(scan, modality, sequence, skull_stripped))
        steps.step("read", 1, 1)
        return prepared

    def _plans(self, canonical: Canonical) -> Iterator[Plan]:
        x, y, z = canonical.tensor.shape[2:]
        return self.planner.encoding((x, y, z))

    def _encoded(self, ready: PreparedScan, plan: Plan, steps: Progress) -> EncodedScan:
        """The scan as the networks see it, encoded as the plan says (METHOD.md 1 and 2)."""
        self.package.place(plan.device)
        scan, canonical = ready.scan, ready.canonical
        steps.step("encode", 0, 1)
        with torch.inference_mode():
            x = canonical.tensor.to(plan.device)
            encoding = encode(
                self.package.autoencoder, self.package.attention,
                x.contiguous(memory_format=torch.channels_last_3d),
                torch.tensor([MODALITIES.index(scan.modality)], device=plan.device), plan.tiling,
                lambda done, total: steps.step("encode", done, total),
            )
        scaled = encoding.latent.float() * self.package.card.scale_factor
        return EncodedScan(
            canonical, encoding, scaled, scan.image, scan.name, self._class_label(scan),
            scan.sequence, scan.skull_stripped, modality_reason=scan.modality_reason,
        )

    def segment(
        self, scan: EncodedScan, prompt: str | Prompt, *,
        progress: Callback | Progress | None = None, seed: int = 0,
        threshold: float | None = None, samples: int | None = None,
        preview: Callable[[Preview], None] | None = None,
        within: sitk.Image | Region | None = None,
    ) -> Result:
        """Steps 2 to 5: segments what `prompt` names in an encoded scan.

        Args:
            prompt: a text, or one that was understood already.
            progress: callback(stage, done, total), or the object that a caller can cancel.
            seed: of the inpainting; the same seed gives the same mask on one machine.
            threshold: of the refined score, 0 to 1; None takes the model's own.
            samples: pseudo-healthy scans to draw; their spread is the uncertainty.
            preview: called once with the attention, well before the end.
            within: mask that limits the search, in place of the model's own gate; see `Region`.

        Raises:
            PromptNotUnderstood: with the closest prompts that are.
            RegionUnusable: it is no mask, or nothing of it lies in the scan.
            ResultNotFinite, Cancelled: the networks gave NaN; through `progress`.
        """
        steps, card = _progress(progress), self.package.card
        prompt = understand(prompt, self.text_encoder) if isinstance(prompt, str) else prompt
        level = card.threshold if threshold is None else threshold
        notes = [*scan.notes, *prompt.notes, *self._uncalibrated(prompt, scan)]

        # 2. Attend: where the scan looks abnormal in the sense of the text (METHOD.md 2).
        steps.step("attention", 0, 1)
        self._release_rebuilt(scan)
        region = None if within is None else as_region(within)
        attention, inside = self._searched(scan, prompt, region, level, notes)
        fusion = card.fusion_of(prompt.anatomy, scan.canonical.modality)
        search = CandidateSearch(min(level, card.threshold), self.candidate_options, fusion)
        candidates = find_candidates(
            attention, search.threshold, scan.canonical.spacing, search.options,
            self.package.autoencoder.downscale, self.limits.multiple, inside)
        steps.step("attention", 1, 1)
        evidence = Evidence.nothing(attention, candidates)
        result = Result(
            prompt, evidence, scan.canonical, scan.image, level, notes, card.name,
            fusion.prominence.get(fusion.used, 0.0),
            reliability(card, prompt.anatomy, scan.canonical.modality, scan.sequence,
                        within=region is not None, at_border=prompt.at_border),
            scan.modality_reason, region.name if region is not None else "", search,
            half_contrast=fusion.half_contrast,
        )
        if preview is not None:
            preview(_preview(result, candidates))

        # 3. Inpaint: healthy tissue in the place of the candidates, crop by crop (METHOD.md 3).
        # 4. Compare: what differs between a crop and its pseudo-healthy samples (METHOD.md 4).
        crops = CropComparison(
            self.package, self.planner, scan.latent, scan.rebuilt, candidates,
            self._conditioning(scan, prompt), card.samples if samples is None else samples, seed,
            steps, notes.append)
        self._refine(result, crops, fusion, steps)
        self._release_rebuilt(scan)
        return result

    def _searched(
        self, scan: EncodedScan, prompt: Prompt, region: Region | None, level: float,
        notes: list[str],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The attention, 0 where nothing is searched; and the region, bool (X, Y, Z)."""
        search = (self._brain_search(scan, prompt) if region is None
                  else Search.in_region(region, scan))
        notes += search.notes if search is not None else ()
        attention = _finite(self.attend(scan, prompt, notes.append, gated=search is None))
        level = min(level, self.package.card.threshold)
        sensitive = self.candidate_options.sensitive * level
        attention = self._one_side(attention, prompt, scan, sensitive, notes.append)
        if search is not None:
            return attention * search.inside, search.inside
        return in_the_lungs(attention, scan, prompt, sensitive, level, notes.append), None

    def _brain_search(self, scan: EncodedScan, prompt: Prompt) -> Search | None:
        """In the brain of a whole head, where tumors of it are searched for."""
        if not self._has_gate(prompt, scan):
            return None
        self.package.place(scan.device)
        return brain_search(
            scan, prompt, self.package.attention, self._texts(prompt, scan.device))

    def _release_rebuilt(self, scan: EncodedScan) -> None:
        """Keeps no decoded crops where they take what the memory plan counts on."""
        x, y, z = scan.canonical.tensor.shape[2:]
        if scan.encoding.fine or not self.planner.leaves_room((x, y, z), scan.device):
            scan.rebuilt.clear()

    @staticmethod
    def _refine(result: Result, crops: CropComparison, fusion: Fusion, steps: Progress) -> None:
        """5. The score of each voxel from attention and residuals (METHOD.md 4); its lesions."""
        for box, comparison in crops.compare_each():
            result.evidence.write(box, result.evidence.mask[box], fusion, comparison)
        _finite(result.evidence.score)
        steps.step("residual", 1, 1)
        steps.step("lesions", 0, 1)
        _ = result.lesions  # measured here, so that the caller's thread does not wait for it
        steps.step("lesions", 1, 1)

    @staticmethod
    def _one_side(
        attention: np.ndarray, prompt: Prompt, scan: EncodedScan, threshold: float,
        on_note: Callable[[str], None],
    ) -> np.ndarray:
        """The attention on the side that the prompt names, where the scan shows which that is."""
        if not prompt.side:
            return attention
        middle = midline(scan.canonical) if states_sides(scan.image) else None
        if middle is None:
            on_note(f"“{prompt.side}” was not used: the scan does not show both sides alike.")
            return attention
        on_note(f"Only the {prompt.side} side was searched.")
        return on_one_side(attention, prompt.side, middle, threshold)

    def attend(
        self, scan: EncodedScan, prompt: Prompt, on_note: Callable[[str], None] | None = None,
        gated: bool = True,
    ) -> np.ndarray:
        """The calibrated AOVA map of a prompt, float32 (X, Y, Z), canonical grid (METHOD.md 2).

        Args:
            on_note: called with a sentence where memory runs out.
            gated: False leaves the organ gate open, for who knows where the organ is.
        """
        self.package.place(scan.device)
        smaller = replace(scan.encoding, slab=MIN_MAP_SLAB)
        plans = [Plan(scan.device, None, 0), Plan(scan.device, TILINGS[-1], 0)]
        return carry_out(
            iter(plans),
            lambda plan: self._attended(
                scan, smaller if plan.tiling else scan.encoding, prompt, gated),
            "The attention was computed", on_note or (lambda note: None),
        )

    def _attended(
        self, scan: EncodedScan, encoding: Encoding, prompt: Prompt, gated: bool
    ) -> np.ndarray:
        shift = self._shift(prompt, scan) or 0.0
        counts = gated and self._has_gate(prompt, scan)
        texts, slabs = self._texts(prompt, scan.device), []
        with torch.inference_mode(), precision(scan.device):
            for made in maps(self.package.attention, encoding, texts):
                p = made.probability() if counts else torch.sigmoid(made.anomaly)
                logit = torch.logit(p[0, 0].float(), eps=1e-7) + shift
                slabs.append(torch.sigmoid(logit))
        return torch.cat(slabs).cpu().numpy()

    def _has_gate(self, prompt: Prompt, scan: EncodedScan) -> bool:
        key = f"{prompt.anatomy}/{scan.canonical.modality}"
        return bool(prompt.gate) and key not in self.package.card.open_gates

    def _shift(self, prompt: Prompt, scan: EncodedScan) -> float | None:
        return self.package.card.shift_of(
            prompt.anatomy, scan.canonical.modality, scan.sequence)

    def _uncalibrated(self, prompt: Prompt, scan: EncodedScan) -> list[str]:
        """A warning where calibration found no threshold at which the model finds anything."""
        card = self.package.card
        tried = card.calibration or card.calibrated_on
        if not tried or not prompt.anatomy or self._shift(prompt, scan) is not None:
            return []
        return [f'The model "{card.name}" is not calibrated for "{prompt.title}" in '
                f"{scan.canonical.modality}: neither what it finds there nor that it finds "
                "nothing means much."]

    def _conditioning(self, scan: EncodedScan, prompt: Prompt) -> Conditioning:
        """What the denoiser is given beside the latent."""
        return Conditioning(scan.class_label, scan.canonical.spacing, REGION_SPANS[prompt.region],
                            self.package.card.guidance)

    def _class_label(self, scan: Scan) -> int:
        return self.package.card.class_label(scan.modality, scan.sequence, scan.skull_stripped)

    def _texts(self, prompt: Prompt, device: str) -> Texts:
        encode = (self.package.text_encoder or self.text_encoder).encode_ensemble
        gate = prompt.gate or prompt.normal
        rows = (encode(texts)[None].to(device)
                for texts in (prompt.normal, prompt.abnormal, gate))
        return Texts(*rows)


def _finite(values: np.ndarray) -> np.ndarray:
    """The values themselves; NaN of a damaged model would read as "no tumor found"."""
    if not np.isfinite(values).all():
        raise ResultNotFinite
    return values


def _progress(given: Callback | Progress | None) -> Progress:
    return given if isinstance(given, Progress) else Progress(given)


def _preview(result: Result, candidates: Candidates) -> Preview:
    cores = candidates.cores.astype(np.float32)
    return Preview(
        result.attention, boxes_to_input_grid(cores, result.boxes, result.canonical) > 0.5
    )
