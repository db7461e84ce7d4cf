"""The embedded model's scores: unseen patients, wrong organs, scans without tumors.

The scoring is that of `diffugts evaluate`; here is what is asked of which scan.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.datasets import DataSet, LabelledCase
from DiffuGTSLib.errors import BadDataSet
from DiffuGTSLib.evaluation.evaluate import Evaluation, Outcome, choose, evaluate
from DiffuGTSLib.evaluation.place import Failure, Scores
from DiffuGTSLib.evaluation.report import write_report
from DiffuGTSLib.evaluation.scoring import Settings
from DiffuGTSLib.evaluation.tables import summarise, write_tables
from DiffuGTSLib.training.data import Case, read_cases
from DiffuGTSLib.training.validation_tables import Row, markdown
from DiffuGTSLib.whole_file import write_whole

LUNG, BRAIN, LIVER, SARCOMA = "lung tumor", "brain tumor", "liver tumor", "soft tissue sarcoma"
ABDOMEN = (LIVER, "kidney tumor", "pancreatic tumor", "colon tumor")
VOLUNTEERS = ("volunteer_t1", "volunteer_t2", "volunteer2_t1", "colin27_t1")
MEDIASTINUM = ("mediastinum_a", "mediastinum_b")
TABLE = "table.md"
# What is copied beside the docs: the table, and the figures of every case and group.
WIDTH = 1200  # pixels of a picture in the docs
_FOR_THE_DOCS = (TABLE, "cases.csv", "groups.csv")
_SEQUENCES = {"t1": "t1", "t1c": "t1c", "t2": "t2", "fla": "flair"}


@dataclass(frozen=True)
class Task:
    """One scan and what is asked of it.

    Attributes:
        scan: its name in the manifest.
        mask: the outline; "" where the scan holds no tumor.
        group: rows of one group are averaged.
        wrong_organ: the prompt does not name what the mask outlines.
    """

    scan: str
    prompt: str
    mask: str
    group: str
    wrong_organ: bool = False

    @property
    def name(self) -> str:
        """The case's name, and its picture's."""
        return f"{self.scan}_{self.prompt.replace(' ', '_')}"


def tasks() -> list[Task]:
    """What is asked of the validation scans, and of scans without a tumor.

    Prompts of one scan follow each other, so that it is encoded once.
    """
    listed: list[Task] = []
    for scan in ("lung1", "lidc0314"):
        listed += _asked(scan, LUNG, "tumor", "lung CT", (BRAIN, LIVER))
    listed += _asked("brain1", BRAIN, "tumor", "brain T1 Gd", (LUNG, LIVER))
    for sequence, group in (("t1c", "brain T1 Gd"), ("fla", "brain FLAIR"), ("t2", "brain T2"),
                            ("t1", "brain T1")):
        listed += _asked(f"fg-6692_{sequence}", BRAIN, "tumor_silver", group, (LUNG, LIVER))
    for kind, group in (("ct", "sarcoma CT"), ("t1", "sarcoma MR")):
        for number in range(33, 41):
            listed += _asked(f"sts_{number:03d}_{kind}", SARCOMA, "tumor", group, (BRAIN,))
    listed += [Task("abdomen_3mm", prompt, "", "no tumor: abdomen") for prompt in ABDOMEN]
    listed += [Task(scan, BRAIN, "", "no tumor: volunteers") for scan in VOLUNTEERS]
    return listed + [Task(scan, LUNG, "", "no tumor: mediastinum") for scan in MEDIASTINUM]


def _asked(scan: str, prompt: str, mask: str, group: str, wrong: Sequence[str]) -> list[Task]:
    return [Task(scan, prompt, mask, group),
            *(Task(scan, other, mask, "wrong organ", wrong_organ=True) for other in wrong)]


def labelled(task: Task, scan: Case) -> LabelledCase:
    """A task as a case of an evaluation."""
    last = scan.name.rpartition("_")[2]
    return LabelledCase(
        name=task.name, patient=_patient(scan.name), image=scan.folder / "image.nii.gz",
        prompt=task.prompt, modality=scan.modality,
        sequence=_SEQUENCES.get(last, "") if scan.modality == "MR" else "",
        skull_stripped=scan.name.startswith("fg-"),
        mask=scan.folder / f"{task.mask}.nii.gz" if task.mask else None,
        dataset="validation", group=task.group, wrong_organ=task.wrong_organ,
    )


def _patient(scan: str) -> str:
    """Sequences and modalities of one patient share it."""
    return re.sub(r"_(ct|t1|t1c|t2|fla)$", "", scan)


def run(
    data: Path, output: Path, model: str, only: Sequence[str] | None = None, threads: int = 2,
    docs: Path | None = None, place: Scores | None = None,
) -> Evaluation:
    """Scores every task and writes tables, figures, the report and table.md into `output`.

    Started again, it goes on where it was; other weights are scored anew.

    Args:
        data: folder with manifest.json and the scans.
        only: names of scans; None: all of them.
        docs: folder that gets the tables, and anew the pictures that lie there already.
        place: where cases are scored; a process of its own if None.

    Raises:
        BadDataSet: a name in `only` is none of the scans.
    """
    scans = {scan.name: scan for scan in read_cases(data)}
    unknown = sorted(set(only or ()) - {task.scan for task in tasks()})
    if unknown:
        raise BadDataSet(f"No scan is called {', '.join(unknown)}.",
                         f"Scans: {', '.join(dict.fromkeys(t.scan for t in tasks()))}.")
    asked = {task.name: task for task in tasks() if not only or task.scan in only}
    cases = tuple(labelled(task, scans[task.scan]) for task in asked.values())
    dataset = choose(DataSet("validation scans of the embedded model", "", cases))
    settings = Settings(model=model, device="cpu", ablation=True, baselines=True, threads=threads)
    done = evaluate(dataset, output, settings, tell=_tell, place=place)
    summary = summarise(done.cases)
    write_tables(done, summary, output)
    write_report(done, summary, output)
    rows = [Row(asked[c.name].scan, scans[asked[c.name].scan].split, c) for c in done.cases]
    write_whole(output / TABLE, markdown(rows, summary).encode("utf-8"))
    if docs is not None:
        _copy(output, docs)
    return done


def _copy(output: Path, docs: Path) -> None:
    docs.mkdir(parents=True, exist_ok=True)
    for name in _FOR_THE_DOCS:
        shutil.copyfile(output / name, docs / name)
    for picture in docs.glob("*.png"):
        if (output / "figures" / picture.name).is_file():
            _copy_small(output / "figures" / picture.name, picture)


def _copy_small(source: Path, target: Path) -> None:
    """A picture as a page shows it, in 256 colours: a quarter of the size; history keeps each."""
    from PIL import Image

    with Image.open(source) as picture:
        shown = picture.convert("RGB")
        shown.thumbnail((WIDTH, WIDTH))
        shown.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def _tell(done: int, total: int, outcome: Outcome) -> None:
    if isinstance(outcome, Failure):
        text = f"{outcome.case}: not scored. {outcome.message}"
    else:
        dsc = outcome.measures.dsc
        score = f"{outcome.measures.segmented_ml:8.1f} ml" if dsc is None else f"DSC {dsc:.3f}"
        text = f"{outcome.name:36s} {outcome.kind:12s} {score:12s} {outcome.seconds:4.0f} s"
    print(f"[{done}/{total}] {text}", flush=True)
