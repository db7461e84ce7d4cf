"""The command `diffugts train`: attention, autoencoder, denoiser, each from a configuration file.

Several GPUs: torchrun --nproc-per-node N -m DiffuGTSLib.cli train attention --config FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from DiffuGTSLib.cli.common import JsonOption, own_stdout, plain_errors, print_json

if TYPE_CHECKING:
    from DiffuGTSLib.training.commands import TrainingResult

ConfigOption = Annotated[Path, typer.Option(
    "--config", "-c", help="TOML or JSON; Resources/Training has an example of each.")]
LeaveOutOption = Annotated[list[str] | None, typer.Option(
    "--leave-out", help='Class of lesions of which no mask is used, as "liver tumor"; may be '
                        "repeated; added to the file's.")]
train = typer.Typer(no_args_is_help=True, rich_markup_mode=None,
                    help="Train the attention of a model, or an own autoencoder and denoiser.")


@train.command()
@plain_errors
def attention(
    config: ConfigOption, leave_out: LeaveOutOption = None,
    model: Annotated[str | None, typer.Option(
        help="Name or folder of the package, instead of the file's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the attention of a model package; the command again resumes a training."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.training.commands import train_attention
        from DiffuGTSLib.training.config import AttentionConfig, read_config

        overrides: dict[str, Any] = {"model": model} if model else {}
        settings = _without(read_config(config, AttentionConfig, overrides), leave_out)
        _report(train_attention(settings, _line_printer(out, as_json)), as_json, out)


@train.command()
@plain_errors
def autoencoder(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Train an own autoencoder, built like the embedded model's."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.training.commands import train_autoencoder
        from DiffuGTSLib.training.config import AutoencoderConfig, read_config

        settings = read_config(config, AutoencoderConfig)
        _report(train_autoencoder(settings, _line_printer(out, as_json)), as_json, out)


@train.command()
@plain_errors
def denoiser(
    config: ConfigOption, leave_out: LeaveOutOption = None, as_json: JsonOption = False
) -> None:
    """Train a denoiser for such an autoencoder; the result is a model package without attention."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.training.commands import train_denoiser
        from DiffuGTSLib.training.config import DenoiserConfig, read_config

        settings = _without(read_config(config, DenoiserConfig), leave_out)
        _report(train_denoiser(settings, _line_printer(out, as_json)), as_json, out)


def _without(settings: Any, leave_out: list[str] | None) -> Any:
    from dataclasses import replace

    return replace(settings, left_out=(*settings.left_out, *(leave_out or ())))


def _line_printer(out: TextIO, as_json: bool) -> Any:
    """Prints lines of progress, to stderr where stdout gets a JSON document."""
    stream = sys.stderr if as_json else out
    return lambda line: print(line, file=stream, flush=True)


def _report(finished: TrainingResult, as_json: bool, out: TextIO) -> None:
    if not finished.first:
        return
    if as_json:
        print_json(finished.document, out)
        return
    print(f"Written: {finished.document['output']}", file=out)
    words = {"real": "Trained on real lesions", "synthetic": "Trained on synthetic lesions",
             "frozen": "Real lesions whose masks the frozen networks were trained with"}
    if "trained_classes" in finished.document:
        for kind, said in words.items():
            classes = (finished.document["trained_classes"] or {}).get(kind)
            print(f"{said}: {'not stated' if classes is None else ', '.join(classes) or 'none'}",
                  file=out)
    if finished.document.get("left_out"):
        print(f"Left out: {', '.join(finished.document['left_out'])}", file=out)


def register(app: typer.Typer) -> None:
    """Adds `train` to the commands of `app`."""
    app.add_typer(train, name="train")
