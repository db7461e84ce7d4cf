"""The command line `diffugts`: segment, demo, phantom, doctor and worker; others are registered."""

from __future__ import annotations

import enum
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from DiffuGTSLib import __version__
from DiffuGTSLib.cli import batch, evaluate, models, remote, train
from DiffuGTSLib.cli.common import (
    DeviceOption,
    HostOption,
    JsonOption,
    ModalityOption,
    ModelOption,
    SamplesOption,
    SeedOption,
    SequenceOption,
    StrippedOption,
    ThresholdOption,
    own_stdout,
    plain_errors,
    print_json,
)

if TYPE_CHECKING:
    from DiffuGTSLib.cli.segment import Run
    from DiffuGTSLib.pipeline import Options

app = typer.Typer(
    help="Text-prompted tumor segmentation in CT and MR. Research use, not for clinical decisions.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class PhantomKind(enum.StrEnum):
    """What --kind takes."""

    chest = "chest"
    liver = "liver"
    brain = "brain"


def _version(requested: bool) -> None:
    if requested:
        print(f"diffugts {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What comes before a command."""


@app.command()
@plain_errors
def segment(
    image: Annotated[Path, typer.Argument(help="Scan: an image file or a DICOM folder.")],
    prompt: Annotated[list[str], typer.Option(
        "--prompt", "-p", help='The finding to segment, as "liver tumor"; may be repeated.')],
    output: Annotated[Path, typer.Option(
        "--output", "-o", help="Segmentation: .nii.gz, .nrrd or .seg.nrrd.")],
    maps: Annotated[Path | None, typer.Option(
        help="Folder for attention, pseudo-healthy scan, residual and more.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Overview picture, PNG.")] = None,
    series: Annotated[int | None, typer.Option(
        min=1, help="Which series of a DICOM folder with several.")] = None,
    within: Annotated[Path | None, typer.Option(
        help="Mask of an organ, from any program: only there is searched.")] = None,
    part: Annotated[str, typer.Option(
        "--segment", help="One segment of that mask, by its name, or one label, by its number; "
                          "else all are searched.")] = "",
    model: ModelOption = "embedded",
    device: DeviceOption = "auto",
    threshold: ThresholdOption = None,
    seed: SeedOption = 0,
    samples: SamplesOption = None,
    modality: ModalityOption = None,
    sequence: SequenceOption = None,
    skull_stripped: StrippedOption = None,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment what a text names in a scan, lesion by lesion."""
    from DiffuGTSLib.prompt import several
    from DiffuGTSLib.prompt.parsing import refuse_early

    if part and within is None:
        raise typer.BadParameter("it needs the mask: --within.", param_hint="--segment")
    with own_stdout(as_json) as out:
        # A text without any prompt in it is passed on, and refused with a message.
        prompts = [part for text in prompt for part in several(text) or [text]]
        refuse_early(prompts)
        from DiffuGTSLib.cli.common import bar
        from DiffuGTSLib.cli.segment import Outputs, segment_scan
        from DiffuGTSLib.pipeline import Options
        from DiffuGTSLib.scan.region import RegionFile

        options = Options(model, device, threshold, seed, samples, modality, sequence,
                          skull_stripped)
        region = RegionFile(within, part) if within is not None else None
        finished = _with_sequence_question(
            lambda chosen: segment_scan(image, prompts, Outputs(output, maps, figure), chosen, bar,
                                        series=series, within=region, host=host or ""),
            options,
        )
        _print(finished, as_json, out)


@app.command()
@plain_errors
def demo(
    output: Annotated[Path, typer.Option(
        "--output", "-o", help="Folder for the picture and the segmentation.")
    ] = Path("diffugts-demo"),
    phantom_only: Annotated[bool, typer.Option(
        "--phantom", help="Take a digital phantom, not the real scans.")] = False,
    kind: Annotated[PhantomKind, typer.Option(help="Of the phantom.")] = PhantomKind.chest,
    model: ModelOption = "embedded",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show the method on two real scans that come with it: a lung cancer and a glioma."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.cli.common import bar
        from DiffuGTSLib.cli.demo import comparison, examples, run_demo
        from DiffuGTSLib.pipeline import Options

        notes, documents = sys.stderr if as_json else out, []
        for number, example in enumerate(examples(kind.value if phantom_only else None)):
            if number and not as_json:
                print(file=out)
            finished = run_demo(output, example, Options(model, device), bar,
                                lambda text: print(text, file=notes, flush=True))
            documents.append(finished.document)
            if not as_json:
                _print(finished, as_json, out)
                print(comparison(finished.document), file=out)
                print(f"Picture: {finished.document['prompts'][0]['figure']}", file=out)
        if as_json:
            print_json({"scans": documents}, out)


@app.command()
@plain_errors
def phantom(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; created if absent.")],
    kind: Annotated[PhantomKind, typer.Option(help="Which body.")] = PhantomKind.chest,
    seed: Annotated[int, typer.Option(min=0, help="Of the random body.")] = 0,
) -> None:
    """Write a digital phantom: scan, true tumor mask and organ mask."""
    from DiffuGTSLib.errors import OutputNotWritten
    from DiffuGTSLib.scan.phantom import make_phantom

    made = make_phantom(kind.value, seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(f"The folder {output.name} cannot be created.",
                               "Choose another folder.") from None
    for path in made.write(output):
        print(path)
    print(f'Prompt: "{made.prompt}"')


@app.command()
@plain_errors
def doctor(model: ModelOption = "embedded", as_json: JsonOption = False) -> None:
    """Report what is installed, what is missing and how to install it."""
    from DiffuGTSLib.doctor import as_text, examine, healthy

    with own_stdout(as_json) as out:
        findings = examine(model)
        if as_json:
            entries = [finding.as_dict() for finding in findings]
            print_json({"healthy": healthy(findings), "findings": entries}, out)
        else:
            print(as_text(findings), file=out)
    if not healthy(findings):
        raise typer.Exit(1)


@app.command()
def worker(model: ModelOption = "embedded", device: DeviceOption = "auto") -> None:
    """Run as the background process of 3D Slicer: JSON lines on stdin and stdout."""
    from DiffuGTSLib.worker.server import run_worker

    raise typer.Exit(run_worker(model, device))


def _with_sequence_question(attempt: Callable[[Options], Run], options: Options) -> Run:
    """Runs; where the model needs the MR sequence, asks on the terminal and runs again."""
    from DiffuGTSLib.errors import SequenceUnknown

    try:
        return attempt(options)
    except SequenceUnknown as unknown:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        choices, answer = unknown.suggestions, ""
    while answer not in choices:
        answer = typer.prompt(f"Which MR sequence is it ({', '.join(choices)})?", err=True)
        answer = answer.strip().lower()
    return attempt(replace(options, sequence=answer))


def _print(finished: Run, as_json: bool, out: TextIO) -> None:
    """The result, as one JSON document or as tables."""
    if as_json:
        print_json(finished.document, out)
        return
    from rich.console import Console

    from DiffuGTSLib.output import sentence
    from DiffuGTSLib.output.segments import lesion_table

    console = Console(file=out, highlight=False, markup=False)
    for result in finished.results:
        console.print(sentence(result))
        if result.lesions:
            console.print(lesion_table(result))
        for note in result.notes:
            console.print(f"Note: {note}")
        if result.reliability:
            console.print(result.reliability)
    document = finished.document
    console.print(f"Taken for {document['modality']}, {document['modality_reason']}.")


batch.register(app)
evaluate.register_data(app)
evaluate.register(app)
train.register(app)
models.register(app)
remote.register(app)


def main() -> None:
    """The command `diffugts`."""
    # A cluster or a shell that ends the command cancels it too: nothing half-written stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
