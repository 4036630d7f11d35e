"""What a run says: once, however many processes it has."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

# Set by torchrun, Lightning's own launcher, SLURM and LSF in the processes they start.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def is_main_process() -> bool:
    """Whether this process is the one that speaks and makes folders, also before a Trainer is."""
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    return rank == "0" and os.environ.get("NODE_RANK", "0") == "0"


def printable(text: str) -> str:
    """Text whose every character can be seen and written.

    File names may hold line ends, escape sequences that change a terminal, and bytes that are in
    no encoding: these become escapes.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def printable_lines(text: str) -> str:
    """The same for a text of several lines: its line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def say(text: str = "") -> None:
    """Print lines of the run's account on the main process; see ``printable``."""
    if is_main_process():
        print(printable_lines(text), flush=True)


def say_notes(notes: Iterable[str]) -> None:
    """Print what is to be known of weights, where it does not mix with a command's results."""
    if is_main_process():
        for note in notes:
            print(f"note: {printable_lines(note)}", file=sys.stderr, flush=True)


def tool(name: str) -> str:
    """A command of this installation as one can type it here: its name, or its path if needed."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    # Not resolved: the python3 of an environment is a link to one outside, where nothing is.
    if not beside.exists() or (found is not None and Path(found).parent == beside.parent):
        return name
    try:
        return str(beside.relative_to(Path.cwd()))
    except ValueError:
        return str(beside)


def evaluate_command(experiment: Path, checkpoint: Path) -> str:
    """The command that evaluates a checkpoint, through the door that this process came in by."""
    if Path(sys.argv[0]).name == "main.py":
        words = [tool("python3"), sys.argv[0], "--mode", "eval", "--expt"]
        return shlex.join([*words, str(experiment), "--ckpt_path", str(checkpoint)])
    return shlex.join([tool("vit"), "eval", str(experiment), "--ckpt-path", str(checkpoint)])
