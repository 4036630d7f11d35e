"""A model published on the Hugging Face Hub: weights, configuration and card in one folder."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vit_lightning.checkpoints.repository import COMPANIONS, INDICES, WEIGHTS
from vit_lightning.console import say
from vit_lightning.convert import WEIGHTS_FILE, CannotExpressError, convert_model
from vit_lightning.download import size_text
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.files import atomic_write, write_text
from vit_lightning.publish.model_card import Layout, model_card
from vit_lightning.publish.run_record import RunRecord, is_run, read_run
from vit_lightning.publish.upload import Repository, check_repo_id, look_up, upload
from vit_lightning.run_folder import EXPERIMENT_FILE

CARD_FILE = "README.md"

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# Readers look for these beside the weights: one that stays from before would describe others.
_ABOUT_WEIGHTS = frozenset((*WEIGHTS, *INDICES, *COMPANIONS))


@dataclass(frozen=True)
class Pushed:
    """What was published, or laid ready.

    Args:
        files: names of the files.
        where: the repository's address, or the folder of a dry run.
    """

    files: tuple[str, ...]
    where: str


def push(
    source: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: str | Path | None = None,
    license_id: str | None = None,
    figure: bool = False,
) -> Pushed:
    """Publish a model so that timm, transformers and this package load it by its name.

    The weights are in timm's layout, with its ``config.json``, and describe themselves in their
    header, by which this package reads them back exactly. A model that timm would compute
    otherwise, or not at all, is in this package's own layout alone, and its card says why.

    Args:
        source: a run's folder, whose best weights are taken, or weights as
            :func:`~vit_lightning.factory.load_bundle` takes them.
        repo_id: ``org/name``. In a repository that is there, files of the same names are
            overwritten, and others stay.
        private: let its owners alone see a repository that is made now.
        dry_run: a folder to write, empty or not there, instead of uploading.
        license_id: as the Hub calls it, such as ``apache-2.0``; by default none is named.
        figure: publish the run's picture of what the model attends to too, which shows pictures
            of its validation split.

    Raises:
        InputError: the model, the name or the folder cannot be used, or the Hub refuses.
    """
    check_repo_id(repo_id)
    _check_license(license_id)
    if dry_run is not None:
        _check_folder(Path(dry_run))
    repository = Repository(repo_id) if dry_run is not None else look_up(repo_id, private=private)
    run = _run_of(source)
    bundle = _without_paths(load_bundle(run.weights if run else source), run)
    say(f"model      {run.weights if run else source}")
    for note in bundle.notes:
        say(f"note       {note}")
    with _staging(dry_run) as folder:
        layout = _write_weights(bundle, folder)
        shown = _copy_figure(run, folder) if figure and run else None
        card = model_card(repo_id, bundle, layout, run, license_id=license_id, figure=shown)
        write_text(folder / CARD_FILE, card)
        files = _say_files(folder, layout, shown, run, license_id)
        if dry_run is not None:
            _move(folder, Path(dry_run))
            say(f"written    {dry_run}; nothing was uploaded")
            return Pushed(files, str(dry_run))
        _check_others(repository, files)
        message = f"Upload {run.name}" if run else "Upload a Vision Transformer"
        url = upload(folder, repository, message, private=private)
    say(f"published  {url}")
    return Pushed(files, url)


def _check_license(license_id: str | None) -> None:
    if license_id is not None and not _LICENSE.fullmatch(license_id):
        raise InputError(
            f"--license {license_id!r} is no identifier of a license, which is such as apache-2.0, "
            f"mit or cc-by-4.0; https://huggingface.co/docs/hub/repositories-licenses lists them"
        )


def _check_folder(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"--dry-run {folder}: it is already there; name a folder that is not")


def _run_of(source: str | Path) -> RunRecord | None:
    """The run whose folder is meant; None for anything else that weights may be."""
    folder = Path(source)
    if is_run(folder):
        return read_run(folder)
    if is_run(folder.parent) and folder.is_file():
        say(f"note       the card has figures and the recipe if the run is given: {folder.parent}")
    elif folder.is_dir() and (runs := sorted(folder.glob(f"*/{EXPERIMENT_FILE}"))):
        raise InputError(f"{folder} holds runs; give one of them, such as {runs[-1].parent}")
    return None


def _without_paths(bundle: ModelBundle, run: RunRecord | None) -> ModelBundle:
    """The model, whose origin names the run without the folders of this machine."""
    origin = dict(bundle.origin or {})
    if "run" not in origin:
        return bundle
    known = "/".join(Path(str(origin["run"])).parts[-2:])
    return replace(bundle, origin=origin | {"run": run.name if run else known})


@contextmanager
def _staging(dry_run: str | Path | None) -> Iterator[Path]:
    """A folder to write the files in; it goes when the block ends, wherever they went."""
    parent = None if dry_run is None else Path(dry_run).absolute().parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vit-push-", dir=parent) as temporary:
        yield Path(temporary) / "model"


def _move(folder: Path, target: Path) -> None:
    if target.is_dir():
        target.rmdir()  # it is empty, or this fails
    folder.rename(target)


def _write_weights(bundle: ModelBundle, folder: Path) -> Layout:
    try:
        conversion = convert_model(bundle, folder, to="timm")
    except CannotExpressError as error:
        folder.mkdir(exist_ok=True)
        convert_model(bundle, folder / WEIGHTS_FILE, to="safetensors")
        return Layout(only_ours=error.reason)
    return Layout(notes=conversion.notes)


def _copy_figure(run: RunRecord, folder: Path) -> str | None:
    if run.figure is None:
        return None
    with atomic_write(folder / run.figure.name) as temporary:
        shutil.copyfile(run.figure, temporary)
    return run.figure.name


def _say_files(
    folder: Path,
    layout: Layout,
    shown: str | None,
    run: RunRecord | None,
    license_id: str | None,
) -> tuple[str, ...]:
    """Say what is going to be published, and return its names."""
    if layout.only_ours is None:
        say("layout     timm's: timm, transformers and vit-lightning load it")
    else:
        say(f"layout     vit-lightning's own, which it alone loads: {layout.only_ours}")
    for note in layout.notes:
        say(f"note       {note}")
    if license_id is None:
        say("note       no license is named, so that nobody knows what is allowed; see --license")
    if run is not None and run.best is None:
        say("note       this run is not finished: the card has no measured figures")
    if shown is not None:
        say(f"note       {shown} shows validation pictures")
    files = sorted(folder.iterdir())
    for path in files:
        say(f"file       {path.name}, {size_text(path.stat().st_size)}")
    return tuple(path.name for path in files)


def _check_others(repository: Repository, files: tuple[str, ...]) -> None:
    """Say what an upload overwrites; refuse if what would stay contradicts it.

    Raises:
        InputError: the repository has files about other weights.
    """
    if repository.files is None:
        return
    others = sorted(repository.files & _ABOUT_WEIGHTS - set(files))
    if others:
        raise InputError(
            f"{repository.repo_id} has {', '.join(others)}, which would stand beside these weights "
            f"and is about others: libraries would mix them up. Delete it there, or take another "
            f"name"
        )
    seen = "private" if repository.private else "public"
    say(f"note       {repository.repo_id} is there already, {seen}")
    if overwritten := sorted(repository.files & set(files)):
        say(f"note       overwritten, but kept in its history: {', '.join(overwritten)}")
