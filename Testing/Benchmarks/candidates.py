"""What might make the embedded model better, each measured on tuning scans and grown lesions.

    python Testing/Benchmarks/candidates.py painting   steps and samples: how near to healthy tissue
    python Testing/Benchmarks/candidates.py mirrors    the attention on mirrored scans as well
    python Testing/Benchmarks/candidates.py windows A B    several packages, beside each other
    python Testing/Benchmarks/candidates.py fusion     samples, and a small learned head
    python Testing/Benchmarks/candidates.py features   the denoiser's features beside the encoder's

No validation patient is read. The text encoder's package brings scikit-learn.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from DiffuGTSLib.evaluation.measures import best_dice
from DiffuGTSLib.models.card import FUSIONS, logits
from DiffuGTSLib.models.package import Package, load
from DiffuGTSLib.models.store import find
from DiffuGTSLib.networks.attention import MODALITIES, Texts
from DiffuGTSLib.networks.denoiser import Conditioning
from DiffuGTSLib.networks.text_encoder import TextEncoder
from DiffuGTSLib.pipeline.inpainting import inpaint, latent_mask
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.progress import Progress
from DiffuGTSLib.training import attention_trainer, calibration
from DiffuGTSLib.training.data.corpus import Corpus
from DiffuGTSLib.training.data.project_folder import ProjectFolder, Wanted
from DiffuGTSLib.training.data.windows import ORGANS, Source, Window, WindowSampler
from DiffuGTSLib.training.denoiser_trainer import CLASS_LABELS, encode_scan

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
DataOption = Annotated[Path, typer.Option("--data", help="Folder with manifest.json and scans.")]
CacheOption = Annotated[Path, typer.Option("--cache", help="For the resampled scans.")]
ModelOption = Annotated[str, typer.Option("--model", help="Name or folder.")]
DATA, CACHE, MODEL = Path("../shared/data"), Path("out/candidates"), "embedded"

WINDOW = 96  # voxels an axis, of what is painted in
LESIONS_IN = ("sarcoma_ct", "sarcoma_mr", "chest", "brain")
LEVELS = (0.1, 0.3)  # of noise, at which the denoiser's features are read


@app.command()
def painting(data: DataOption = DATA, cache: CacheOption = CACHE,
             model: ModelOption = MODEL) -> None:
    """Paints balls of healthy tissue over itself: whatever differs is the painting's error."""
    package = load(find(model))
    folder = ProjectFolder(data, cache, Wanted())
    sources = [*folder.sources("tuning"),
               *(s for s in folder.sources("training") if s.kind in ("brain", "chest", "abdomen"))]
    settings = [(steps, samples) for steps in (1, 2, 4, 12) for samples in (1, 2, 4)]
    errors: dict[tuple[int, int, int], list[tuple[float, float, float]]] = defaultdict(list)
    for number, source in enumerate(sources):
        for turn in range(2):
            place = _healthy_ball(source, np.random.default_rng([number, turn]))
            if place is None:
                continue
            cut, ball, tissue = place
            for steps in sorted({s for s, _ in settings}):
                drawn, clean = _painted(package, source, cut, ball, steps, 4)
                inside = ball & tissue
                for samples in sorted({n for s, n in settings if s == steps}):
                    off = np.mean(drawn[:samples], 0)[inside] - clean[inside]
                    rough = np.mean(drawn[:samples], 0)[inside].std() / clean[inside].std()
                    errors[source.modality, steps, samples].append(
                        (float(np.abs(off).mean()), float(off.mean()), float(rough)))
    table = Table("modality", "steps", "samples", "mean error", "bias", "texture", "balls",
                  title="painting over healthy tissue; 1 is the range of intensities")
    for (modality, steps, samples), found in sorted(errors.items()):
        error, bias, rough = np.mean(found, 0)
        table.add_row("CT" if modality == 0 else "MR", str(steps), str(samples), f"{error:.3f}",
                      f"{bias:+.3f}", f"{rough:.2f}", str(len(found)))
    Console().print(table)


def _healthy_ball(
    source: Source, generator: np.random.Generator
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray] | None:
    """A window, a ball in it and its healthy tissue; None where the scan has no room for one."""
    image = source.stack[0].numpy()
    ill = ndimage.binary_dilation((source.stack[2] + source.stack[3]).numpy() > 0, iterations=4)
    wanted = (source.stack[1].numpy() == ORGANS.index("lung") + 1 if source.kind == "chest"
              else image > (0.42 if source.modality == 0 else 0.1))
    tissue = wanted & ~ill
    places = np.argwhere(ndimage.binary_erosion(tissue, iterations=5))
    if len(places) == 0:
        return None
    centre, radius = places[generator.integers(len(places))], generator.uniform(5, 11)
    sizes = [min(WINDOW, n // 16 * 16) for n in image.shape]
    starts = [int(np.clip(c - n // 2, 0, whole - n)) // 4 * 4
              for c, n, whole in zip(centre, sizes, image.shape, strict=True)]
    cut = tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))
    offset = np.indices(sizes) + (np.array(starts) - centre)[:, None, None, None]
    return cut, (offset**2).sum(0) <= radius**2, tissue[cut]


def _painted(
    package: Package, source: Source, cut: tuple[slice, ...], ball: np.ndarray, steps: int,
    samples: int,
) -> tuple[list[np.ndarray], np.ndarray]:
    """The window with the ball painted, some times, and as the autoencoder shows it unpainted."""
    scale = package.card.scale_factor
    label = package.card.class_label("CT" if source.modality == 0 else "MR")
    told = Conditioning(label, package.card.spacing_mm, (0, 0), package.card.guidance)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        latent = encode_scan(package.autoencoder, source.stack[0][cut])[None] * scale
        mask = latent_mask(torch.from_numpy(ball), package.autoencoder.downscale).to(latent)
        schedule = package.schedule(steps, latent[0, 0].numel())
        made = [
            inpaint(package.denoiser, schedule, latent, mask, told,
                    torch.Generator().manual_seed(seed), Progress(None), 0, 1)
            for seed in range(samples)
        ]
        decoded = [package.autoencoder.decode(z / scale)[0, 0].float().numpy()
                   for z in (*made, latent)]
    return decoded[:-1], decoded[-1]


@app.command()
def mirrors(data: DataOption = DATA, cache: CacheOption = CACHE,
            model: ModelOption = MODEL) -> None:
    """The worth of the attention alone, by the axes along which scans are mirrored as well."""
    package = load(find(model))
    # Not those of abdominal organs, where no threshold finds anything.
    examples = [e for e in ProjectFolder(data, cache, Wanted()).examples(1000)
                if e.key in package.card.calibration]
    keys = sorted({e.key for e in examples})
    table = Table("mirrored along", *keys, "seconds a scan",
                  title="worth at the best threshold of all, and at each example's own")
    segmenter = Segmenter(package)
    for axes in ((), (0,), (0, 1)):  # upside down, nothing looks as it should
        package.attention.register_to_config(mirrors=axes)
        begin = time.perf_counter()
        measured = [calibration.attentions([segmenter], e)[0] for e in examples]
        seconds = (time.perf_counter() - begin) / len(examples)
        cells = []
        for key in keys:
            of_key = [m for m, e in zip(measured, examples, strict=True) if e.key == key]
            own = np.mean([m.worth(m.attention).max() for m in of_key])
            cells.append(f"{calibration.best_shift(of_key).worth:.3f} / {own:.3f}")
        table.add_row(" ".join("xyz"[a] for a in axes) or "-", *cells, f"{seconds:.1f}")
    Console().print(table)


@app.command()
def windows(packages: Annotated[list[Path], typer.Argument(help="Folders of packages.")],
            data: DataOption = DATA, cache: CacheOption = CACHE) -> None:
    """Best Dice on windows of the tuning patients, and on lesions grown in training scans."""
    folder = ProjectFolder(data, cache, Wanted(largest=WINDOW))
    corpus = Corpus([(folder, 1.0)], folder.wanted)
    texts = attention_trainer.PromptTexts(TextEncoder.from_package(), corpus.organs)
    drawn = texts.draw(np.random.default_rng(0))
    held: dict[str, list[Window]] = defaultdict(list)
    for window in corpus.held_out():
        held[f"{corpus.organs[window.organ]} {MODALITIES[window.modality]}"].append(window)
    table = Table("package", *(f"{name} ({len(of)})" for name, of in held.items()),
                  title="mean best Dice (windows)")
    for place in packages:
        package = load(place)
        table.add_row(place.name, *(f"{np.mean([_best(package, drawn, w) for w in of]):.2f}"
                                    for of in held.values()))
    Console().print(table)


def _best(package: Package, texts: Texts, window: Window) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = attention_trainer.window_maps(package.autoencoder, package.attention, window,
                                     attention_trainer.pick(texts, window.organ))
    return best_dice(made.probability()[0, 0].numpy(), window.lesion.numpy() > 0.5)[0]


@app.command("fusion")
def fusions(data: DataOption = DATA, cache: CacheOption = CACHE, model: ModelOption = MODEL,
            most: Annotated[int, typer.Option(help="Examples of an anatomy.")] = 6) -> None:
    """The worth of masks on examples that the fit has not seen, by what they are made of."""
    package = load(find(model))
    examples = ProjectFolder(data, cache, Wanted()).examples(most)
    table = Table("modality", "samples", *FUSIONS, "learned head", "examples",
                  title="mean worth of examples left out of the fit (four folds)")
    for samples in (1, 2, 4):
        segmenter = Segmenter(replace(package, card=replace(package.card, samples=samples)))
        measured = [calibration.measure(segmenter, e) for e in examples]
        for modality in package.card.modalities:
            usable = [m for m in measured if m.modality == modality and m.inside.any()]
            worth = _unseen(usable)
            table.add_row(modality, str(samples), *(f"{worth[k]:.3f}" for k in (*FUSIONS, "head")),
                          str(len(usable)))
    Console().print(table)


def _unseen(usable: Sequence[calibration.Measured]) -> dict[str, float]:
    """Mean worth of the examples, each of which is left out of the fit once."""
    found: dict[str, list[float]] = defaultdict(list)
    for fold in range(calibration.FOLDS):
        seen = [m for i, m in enumerate(usable) if i % calibration.FOLDS != fold]
        fitted, head = calibration.fit_kinds(seen), _head(seen)
        cut = int(np.mean([m.worth(_by_head(head, m)) for m in seen], axis=0).argmax())
        for m in usable[fold::calibration.FOLDS]:
            for kind in FUSIONS:
                found[kind].append(calibration.worth_of(m, fitted, kind))
            found["head"].append(float(m.worth(_by_head(head, m))[cut]))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def _columns(m: calibration.Measured) -> np.ndarray:
    """(V, 7) of the voxels of M: logit, residuals, and their means in cubes of 3 and 9 voxels."""
    logit = logits(m.attention)
    columns = [logit, m.pixel, m.feature]
    columns += [ndimage.uniform_filter(a, n) for n in (3, 9) for a in (logit, m.pixel)]
    return np.stack([c[m.inside] for c in columns], 1)


def _head(seen: Sequence[calibration.Measured]) -> Pipeline:
    """A network of one hidden layer, as many voxels from each example."""
    generator = np.random.default_rng(0)
    rows, truths = [], []
    for m in seen:
        columns, truth = _columns(m), m.truth[m.inside]
        picked = generator.choice(len(truth), 4000)
        rows.append(columns[picked])
        truths.append(truth[picked])
    head = make_pipeline(StandardScaler(),
                         MLPClassifier((16,), alpha=1e-2, early_stopping=True, random_state=0))
    return head.fit(np.concatenate(rows), np.concatenate(truths))


def _by_head(head: Pipeline, m: calibration.Measured) -> np.ndarray:
    score = np.zeros(m.truth.shape)
    score[m.inside] = head.predict_proba(_columns(m))[:, 1]
    return score


@app.command()
def features(data: DataOption = DATA, cache: CacheOption = CACHE, model: ModelOption = MODEL,
             count: Annotated[int, typer.Option(help="Windows to fit on, of each kind.")] = 20,
             ) -> None:
    """Logistic regression from a voxel's features (at 1/4) to whether it is lesion."""
    package = load(find(model))
    folder = ProjectFolder(data, cache, Wanted(largest=WINDOW))
    texts = attention_trainer.PromptTexts(TextEncoder.from_package(), Corpus([(folder, 1.0)],
                                                                     folder.wanted).organs)
    table = Table("kind", "features", "AUROC", "best Dice", "windows",
                  title="lesion or not, on windows that were not fitted on")
    sources = {s: list(folder.sources(s)) for s in ("training", "tuning")}
    for kind in LESIONS_IN:
        of_kind = {split: [s for s in sources[split] if s.kind == kind] for split in sources}
        held = of_kind["tuning"] or of_kind["training"]
        fit_on = _windows(of_kind["training"], count, 0)
        unseen = _windows(held, count // 2, 1)
        described = [[_described(package, w) for w in group] for group in (fit_on, unseen)]
        for name in described[0][0][0]:
            fitted = _regression([(d[name], truth) for d, truth in described[0]])
            scores = [(fitted.predict_proba(d[name])[:, 1], truth) for d, truth in described[1]]
            _add(table, kind, name, scores)
        trained = [_by_attention(package, texts, w) for w in unseen]
        _add(table, kind, "the trained attention", list(zip(
            trained, (truth for _, truth in described[1]), strict=True)))
    Console().print(table)


def _windows(sources: Sequence[Source], count: int, seed: int) -> list[Window]:
    """Windows with a lesion."""
    sampler, generator = WindowSampler(sources, WINDOW), np.random.default_rng([seed, 0xCA])
    found: list[Window] = []
    while len(found) < count:
        window = sampler.draw(generator)
        if _coarse(window.lesion).any():
            found.append(window)
    return found


def _coarse(mask: torch.Tensor) -> np.ndarray:
    return F.avg_pool3d(mask[None, None].float(), 4)[0, 0].flatten().numpy() > 0.5


def _described(package: Package, window: Window) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(V, C) of each kind of features, and which voxels (V,) are lesion."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        levels = attention_trainer.window_features(package.autoencoder, window.image)
        encoder = torch.cat([F.adaptive_avg_pool3d(f.float(), levels[-1].shape[2:])
                             for f in levels], 1)
        latent = encode_scan(package.autoencoder, window.image[0, 0])[None]
        latent = latent * package.card.scale_factor
        denoiser = torch.cat([_of_denoiser(package, latent, window.modality, level)
                              for level in LEVELS], 1)

    def flat(x: torch.Tensor) -> np.ndarray:
        return x[0].flatten(1).T.float().numpy()

    return {"encoder": flat(encoder), "denoiser": flat(denoiser),
            "both": flat(torch.cat([encoder, denoiser], 1))}, _coarse(window.lesion)


def _of_denoiser(
    package: Package, latent: torch.Tensor, modality: int, level: float
) -> torch.Tensor:
    """What goes into the denoiser's last layers, where all of the latent is to be cleaned."""
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    noisy = (1 - level) * latent + level * noise
    shown = torch.cat([noisy, torch.ones_like(noisy[:, :1])], 1)
    kept: list[torch.Tensor] = []
    hook = package.denoiser.out.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        package.denoiser(shown, torch.tensor([1000 * level]),
                         class_labels=torch.tensor([CLASS_LABELS[modality]]),
                         spacing=torch.tensor([[200.0, 200.0, 200.0]]))
    finally:
        hook.remove()
    return kept[0].float()


def _regression(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Pipeline:
    """As many voxels of each window, as many of them lesion as there are up to a half."""
    generator = np.random.default_rng(0)
    rows, truths = [], []
    for columns, truth in pairs:
        for value in (True, False):
            places = np.flatnonzero(truth == value)
            picked = generator.choice(places, min(500, len(places)), replace=False)
            rows.append(columns[picked])
            truths.append(truth[picked])
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return fitted.fit(np.concatenate(rows), np.concatenate(truths))


def _by_attention(
    package: Package, texts: attention_trainer.PromptTexts, window: Window
) -> np.ndarray:
    drawn = attention_trainer.pick(texts.draw(np.random.default_rng(0)), window.organ)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = attention_trainer.window_maps(package.autoencoder, package.attention, window, drawn)
    coarse = F.avg_pool3d(made.probability()[0].float(), 4)
    return coarse.flatten().numpy()


def _add(
    table: Table, kind: str, name: str, scores: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    areas = [roc_auc_score(truth, score) for score, truth in scores]
    dices = [best_dice(score, truth)[0] for score, truth in scores]
    table.add_row(kind, name, f"{np.mean(areas):.3f}", f"{np.mean(dices):.3f}", str(len(scores)))


if __name__ == "__main__":
    app()
