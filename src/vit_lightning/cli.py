"""The command line: ``vit …``, and ``main.py --mode …`` for those who know it.

torch is imported by the commands that need it and not before: help and errors come at once.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vit_lightning import __version__
from vit_lightning.cli_baseline import add_baseline_command
from vit_lightning.cli_bench import add_bench_command
from vit_lightning.cli_check import add_check_command
from vit_lightning.cli_convert import add_convert_command
from vit_lightning.cli_data import add_data_command
from vit_lightning.cli_export import add_export_command
from vit_lightning.cli_options import (
    WEIGHTS,
    add_image_size,
    add_weights,
    image_size,
    weights,
)
from vit_lightning.cli_push import add_push_command
from vit_lightning.cli_verify import add_verify_command
from vit_lightning.cli_weights import add_weights_command
from vit_lightning.console import printable, printable_lines, say_notes
from vit_lightning.errors import InputError
from vit_lightning.files import refuse_unwritable
from vit_lightning.openmp import choose_waiting

_BAD_INPUT = 2
_OVERRIDES = "settings to change, such as optim.lr=0.01 trainer.max_steps=200"


# Commands that have modules of their own, in the order of the help.
_ADDED = (
    add_weights_command,
    add_convert_command,
    add_export_command,
    add_verify_command,
    add_push_command,
    add_check_command,
    add_baseline_command,
    add_data_command,
    add_bench_command,
)

# What a command returns is the exit code; nothing stands for 0.
Command = Callable[[argparse.Namespace], int | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``vit``; returns the exit code: 0, 2 for bad input, 1 for "no" to a question."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no further overrides once an option has stood between them.
    if rest:
        if "overrides" not in options or any(text.startswith("-") for text in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides += rest
    command: Command = options.command
    return _guarded(command, options)


def main_by_mode(arguments: Sequence[str] | None = None) -> int:
    """Run ``main.py --mode train|eval``; returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="main.py", description="Train or evaluate a Vision Transformer on your pictures."
    )
    parser.add_argument("--mode", choices=["train", "eval"], required=True)
    parser.add_argument("--expt", type=Path, required=True, help="experiment file", metavar="FILE")
    parser.add_argument("--ckpt_path", help="model to evaluate", metavar="FILE")
    _add_subject(parser)
    _add_resume(parser)
    parser.add_argument("overrides", nargs="*", help=_OVERRIDES, metavar="part.name=value")
    options = parser.parse_intermixed_args(arguments)
    options.experiment = options.expt
    if options.mode == "train":
        if (options.ckpt_path, options.split, options.data) != (None, None, None):
            parser.error(
                "--ckpt_path, --split and --data are for --mode eval; training goes on with "
                "--resume, and starts from the weights that model.weights names"
            )
        return _guarded(_train, options)
    if options.ckpt_path is None:
        parser.error("--mode eval needs --ckpt_path, the model to evaluate")
    if options.resume is not None:
        parser.error("--resume is for --mode train")
    return _guarded(_evaluate, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vit", description="The Vision Transformer on your pictures."
    )
    parser.add_argument("--version", action="version", version=f"vit-lightning {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train as an experiment file says")
    train.set_defaults(command=_train)
    train.add_argument("experiment", type=Path, help="experiment file (JSON)")
    _add_resume(train)

    evaluate = commands.add_parser(
        "eval", help="evaluate a model on an experiment's pictures or others"
    )
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("experiment", type=Path, help="experiment file (JSON)")
    evaluate.add_argument(
        "--ckpt-path", "--weights", required=True, help=WEIGHTS, metavar="WEIGHTS"
    )
    _add_subject(evaluate)
    for command in (train, evaluate):
        command.add_argument("overrides", nargs="*", help=_OVERRIDES, metavar="part.name=value")

    _add_predict(commands.add_parser("predict", help="name what is in pictures"))

    attend = commands.add_parser("attend", help="draw what a model looks at in pictures")
    attend.set_defaults(command=_attend)
    attend.add_argument("pictures", nargs="+", type=Path, help="files or folders")
    _add_model(attend)
    attend.add_argument(
        "-o", "--output", type=Path, default=Path("attention.png"), help="default: attention.png"
    )

    info = commands.add_parser("info", help="list the models, or describe one or weights")
    info.set_defaults(command=_info)
    info.add_argument("model", nargs="?", help=f"a preset's name, or {WEIGHTS}")
    add_image_size(info, "pixels to count operations for")
    for add_command in _ADDED:
        add_command(commands)
    return parser


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        help="go on with the newest unfinished run (auto) or a run's folder",
        metavar="auto|RUN",
    )


def _add_subject(parser: argparse.ArgumentParser) -> None:
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument(
        "--split",
        choices=["train", "val", "test"],
        help="pictures to evaluate on (default: test where there is one, else val)",
    )
    subject.add_argument(
        "--data",
        type=Path,
        help="pictures to evaluate on instead of the experiment's, all of them: a folder with a "
        "folder for each class, or a manifest (.csv, .tsv, .parquet)",
        metavar="PATH",
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_predict)
    parser.add_argument("pictures", nargs="+", type=Path, help="files or folders")
    _add_model(parser)
    parser.add_argument("--top", type=int, default=5, help="classes to name (default: 5)")
    parser.add_argument(
        "--precision", choices=["32", "bf16-mixed"], default="32", help="default: 32"
    )
    parser.add_argument(
        "--merge-tokens",
        type=int,
        default=0,
        help="pairs of tokens that each block merges: faster, a little less exact (default: 0)",
        metavar="R",
    )
    parser.add_argument("--csv", type=Path, help="write a table here too", metavar="FILE")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_image_size(parser, "pixels, for a .npz whose grid is not square")


def _guarded(command: Command, options: argparse.Namespace) -> int:
    choose_waiting(os.environ)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold letters it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = command(options) or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        print(printable_lines(str(error)), file=sys.stderr)
        return _BAD_INPUT
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # no permission, no space: the system's words name file and cause
        print(printable_lines(f"a file cannot be read or written: {error}"), file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130


def _train(options: argparse.Namespace) -> None:
    from vit_lightning.experiment import load_experiment

    _answer_legacy(options.experiment)
    load_experiment(options.experiment, options.overrides)  # errors before the slow imports
    from vit_lightning.run import train

    train(options.experiment, options.overrides, resume=options.resume)


def _evaluate(options: argparse.Namespace) -> None:
    from vit_lightning.experiment import load_experiment

    _answer_legacy(options.experiment)
    load_experiment(options.experiment, options.overrides)
    from vit_lightning.assess import evaluate

    evaluate(
        options.experiment, options.ckpt_path, options.split, options.overrides, data=options.data
    )


def _answer_legacy(path: Path) -> None:
    """Refuse the predecessor's flat file with its equivalent, the JSON alone on stdout."""
    from vit_lightning.json_file import read_json
    from vit_lightning.legacy import convert_legacy, is_legacy

    values = read_json(path)
    if is_legacy(values):
        text, unknown = convert_legacy(values)
        print(text, end="")
        left_out = f"\nWithout an equivalent: {', '.join(unknown)}." if unknown else ""
        raise InputError(
            f"{path}: a flat experiment file of the predecessor. Printed is the same experiment as "
            f"it is written today: save it, read it through, and start it.{left_out}"
        )


def _predict(options: argparse.Namespace) -> None:
    from vit_lightning.factory import load_bundle
    from vit_lightning.models.merging import merge_tokens
    from vit_lightning.prediction import find_pictures, predict, write_predictions
    from vit_lightning.progress import Progress

    if options.top < 1:
        raise InputError(f"--top: at least one class, got {options.top}")
    if options.csv is not None:
        refuse_unwritable(options.csv)
    bundle = load_bundle(weights(options), image_size(options))
    say_notes(bundle.notes)
    merge_tokens(bundle.model, options.merge_tokens)
    files = find_pictures(options.pictures)
    unreadable: list[str] = []
    with Progress(len(files), "predict") as progress:
        predictions = predict(
            bundle,
            files,
            options.top,
            bfloat16=options.precision == "bf16-mixed",
            on_unreadable=lambda error: unreadable.append(printable(str(error))),
            on_progress=progress.update,
        )
    if options.csv is not None and predictions:  # before a reader such as head has seen enough
        write_predictions(predictions, options.csv)
    for prediction in predictions:
        print(printable(str(prediction.path)))
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            bar = "█" * round(20 * probability)
            print(f"  {probability:7.2%}  {bar:<20}  {printable(name)}")
    if options.csv is not None and predictions:
        print(f"\n{printable(str(options.csv))}")
    if unreadable:
        sys.stdout.flush()  # before what comes on stderr
        total = len(predictions) + len(unreadable)
        head = f"{len(unreadable)} of {total} pictures cannot be read:"
        raise InputError("\n  ".join([head, *unreadable] if total > 1 else unreadable))


def _attend(options: argparse.Namespace) -> None:
    from vit_lightning.factory import load_bundle
    from vit_lightning.prediction import attend

    if options.output.suffix.lower() != ".png":
        raise InputError(f"-o {options.output}: the figure is a PNG; give it a name in .png")
    refuse_unwritable(options.output)
    bundle = load_bundle(weights(options), image_size(options))
    say_notes(bundle.notes)
    attend(bundle, options.pictures, options.output)
    print(printable(str(options.output)))


def _info(options: argparse.Namespace) -> None:
    from vit_lightning.info import describe_preset, describe_weights, preset_table

    name = options.model
    if name is None:
        print(preset_table())
    elif Path(name).exists() or Path(name).suffix or "/" in name:
        print(describe_weights(name, image_size(options)))
    else:
        print(describe_preset(name, image_size(options)))
