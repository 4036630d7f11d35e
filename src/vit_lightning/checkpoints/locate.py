"""One argument that names weights → a file on this machine, fetched if need be."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from vit_lightning.checkpoints import cache, hub
from vit_lightning.checkpoints.formats import file_format
from vit_lightning.checkpoints.npz import open_npz
from vit_lightning.checkpoints.official import (
    COLLECTIONS,
    OFFICIAL,
    OfficialWeights,
    find_official,
    misfit,
    official_names_of,
    relatives,
)
from vit_lightning.checkpoints.repository import (
    WEIGHTS,
    WEIGHTS_SUFFIXES,
    companions_in,
    weights_of,
)
from vit_lightning.checkpoints.shipped import PREFIX, shipped_path
from vit_lightning.download import DownloadError, fetch, part_files
from vit_lightning.errors import InputError

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_HUB_HOSTS = ("huggingface.co", "hf.co")
_CLOSED = "since February 2026 Google's bucket refuses anonymous users"
_OFFLINE = "not asked, as HF_HUB_OFFLINE is set"
_WITHOUT_THEM = (
    "start from vit-lightning/tiny-imagenet, small weights that come with the package, or from "
    "scratch with model.weights=null"
)


@dataclass(frozen=True)
class Located:
    """Weights on this machine.

    Args:
        path: the weights file.
        source: what to call it: the path, official name, Hub id or address as given.
        companions: the files beside it that describe it: "config.json" and
            "preprocessor_config.json" of other libraries, "vit.json" of this one.
        official: the table's row if an official name was asked for: Google's numerics apply,
            whichever file answered.
        notes: what to say of how it was found, for the report.
    """

    path: Path
    source: str
    companions: Mapping[str, Path] = field(default_factory=dict)
    official: OfficialWeights | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Absent:
    """A place that has not the weights.

    Args:
        why: a line for the message if no place has them.
        passed_over: whether to say it also if another place has them, as there is a file.
    """

    why: str
    passed_over: bool = False


def locate_weights(
    spec: str | Path, folder: Path = Path("checkpoint"), *, may_fetch: bool = True
) -> Located:
    """Find weights, and fetch them if they are not here.

    Args:
        spec: the first of these that it is: a file; a folder in the layout of the Hugging Face
            Hub; ``vit-lightning/<name>``, weights that come with the package; an address (https);
            an official name such as ``imagenet21k/ViT-B_16``, looked for in ``folder``, the cache,
            Google's bucket and its mirror on the Hub; a Hub id (``org/name``,
            ``org/name@revision``). ``hf-hub:org/name`` is always the last.
        folder: where people put official files.
        may_fetch: whether the network may be used; HF_HUB_OFFLINE forbids it too.

    Raises:
        InputError: nothing answers; the message names each place and what it said.
    """
    text = str(spec)
    path = _existing(text)
    if path is not None:
        return _local(path, text)
    if text.startswith(PREFIX):
        return Located(shipped_path(text), text)
    if "://" in text:
        return _at_address(text, may_fetch)
    if _names_a_file(text):
        raise InputError(missing_weights_message(text))
    official = find_official(text)
    if official is not None:
        return replace(_official(official, folder, may_fetch), source=text)
    repository = hub.parse_hub_id(text)
    if repository is None:
        raise InputError(
            f"{text!r} names no weights: there is no such file here, and it is no official name "
            f"(such as imagenet21k/ViT-B_16), no Hub id (org/name) and no https address"
        )
    return _in_repository(text, *repository, may_fetch)


def missing_weights_message(path: str | Path) -> str:
    """What to tell someone whose weights file is not there."""
    if Path(path).suffix in (".ckpt", ".safetensors"):  # made here, not downloaded
        return (
            f"{path}: there is no such weights file. A training run puts its best weights at "
            f"checkpoint/<experiment name>.ckpt and in its own folder under runs/"
        )
    names = official_names_of(Path(path).name) or ["imagenet21k/ViT-B_16"]
    return (
        f"{path}: there is no such weights file.\n"
        f"Any copy of the .npz in Google's layout will do: put it at this path. Or give a name "
        f"instead, and it is looked for: an official one ({', '.join(names)}), which Google's "
        f"bucket (https://storage.googleapis.com/vit_models/...) has answered with 403 "
        f"(forbidden) since February 2026, but of which the Hugging Face Hub has a mirror; or "
        f"any Vision Transformer of the Hub (timm/vit_base_patch16_224.augreg_in21k).\n"
        f"Meanwhile {_WITHOUT_THEM}."
    )


def _existing(text: str) -> Path | None:
    if not text:
        return None
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long a name; nobody's home
        return None


def _names_a_file(text: str) -> bool:
    if text.removesuffix(".npz").rpartition("/")[0] in COLLECTIONS:
        return False
    return text.startswith(("/", "./", "../", "~")) or text.endswith(WEIGHTS_SUFFIXES)


def _local(path: Path, text: str) -> Located:
    if not path.is_dir():
        return Located(path, text, _beside(path))
    try:
        name = weights_of({item.name for item in path.iterdir()}, "it")
    except InputError as error:
        raise InputError(f"{path} is a folder: {error}. Name the file inside it") from None
    return Located(path / name, text, _beside(path / name))


def _beside(path: Path) -> dict[str, Path]:
    """The files that describe ``path``; those of other libraries only where it has their name."""
    companions = dict(companions_in(path.parent)) if path.name in WEIGHTS else {}
    sidecar = path.with_name(f"{path.name}.json")
    return companions | ({"vit.json": sidecar} if sidecar.is_file() else {})


def _at_address(url: str, may_fetch: bool) -> Located:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise InputError(f"{url}: not an address: {error}") from None
    if parts.scheme != "https" and (parts.scheme != "http" or host not in _THIS_MACHINE):
        raise InputError(f"{url}: weights are fetched from addresses that begin with https://")
    if host in _HUB_HOSTS and "/resolve/" not in parts.path:
        repository = "/".join(parts.path.strip("/").split("/")[:2])
        raise InputError(f"{url} is a page, not a file; give the Hub id instead: {repository}")
    path = cache.url_path(url)
    if not path.exists():
        if not may_fetch or hub.is_offline():
            why = _OFFLINE if may_fetch else "not fetched before"
            raise InputError(f"{url}: {why}; it is not in the cache ({path})")
        try:
            fetch(url, path, what="the weights", check=_check_arrived)
        except DownloadError as error:
            raise InputError(
                f"{url}: {error}\n  If this machine has no network, fetch that file elsewhere and "
                f"give its path"
            ) from None
        finally:
            if path.exists() or part_files(path)[0].exists():
                cache.note_url(url, path)
    return Located(path, url)


def _check_arrived(path: Path) -> None:
    """InputError if what was fetched to ``path`` is no weights file but, say, a login page."""
    try:
        file_format(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "what arrived")) from None


def _in_repository(text: str, repo_id: str, revision: str | None, may_fetch: bool) -> Located:
    try:
        files = hub.find_on_hub(repo_id, revision, may_fetch=may_fetch)
    except hub.HubError as error:
        near = difflib.get_close_matches(text, OFFICIAL, n=1, cutoff=0.8)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{text}: there is no such file here, and of the repository on the Hub "
            f"({hub.endpoint()}) this is said: {error}.{hint}\n"
            f"  HF_ENDPOINT names another Hub; repositories fetched elsewhere with `hf download "
            f"{repo_id}` are used from {hub.cache_folder()}, which HF_HOME moves"
        ) from None
    notes = (files.remark,) if files.remark else ()
    return Located(files.weights, text, files.companions, notes=notes)


def _official(row: OfficialWeights, folder: Path, may_fetch: bool) -> Located:
    """The first place that has the weights; each says a line if it has not."""
    places: tuple[Callable[[], Located | _Absent | None], ...] = (
        lambda: _file(folder / row.collection / f"{row.name}.npz"),
        lambda: _fitting_file(row, folder / f"{row.name}.npz"),
        lambda: _file(cache.official_path(row)),
        lambda: _in_kept_mirror(row),
        lambda: _in_bucket(row, may_fetch),
        lambda: _in_mirror(row, may_fetch),
    )
    absent: list[_Absent] = []
    for place in places:
        answer = place()
        if isinstance(answer, Located):
            passed_over = tuple(other.why for other in absent if other.passed_over)
            return replace(answer, official=row, notes=(*passed_over, *answer.notes))
        if answer is not None:
            absent.append(answer)
    lines = [f"{row.full_name}: no place has these weights.", *(f"  {one.why}" for one in absent)]
    if may_fetch:
        lines += ["What to do:", *(f"  - {way}" for way in _ways_forward(row, folder))]
    raise InputError("\n".join(lines))


def _file(path: Path) -> Located | _Absent:
    if not path.is_file():
        return _Absent(f"{path}: not there")
    return Located(path, str(path), _beside(path))


def _fitting_file(row: OfficialWeights, path: Path) -> Located | _Absent:
    """A file whose name other official weights have too; taken only if it fits."""
    if not path.is_file():
        return _Absent(f"{path}: not there")
    try:
        why = misfit(row, open_npz(path).shapes)
    except InputError as error:
        why = str(error)
    if why:
        return _Absent(f"{path}: passed over: {why}", passed_over=True)
    note = f"{path} was taken for {row.full_name}, whose head and grid it has"
    return Located(path, str(path), _beside(path), notes=(note,))


def _in_bucket(row: OfficialWeights, may_fetch: bool) -> Located | _Absent:
    if not may_fetch or hub.is_offline():
        return _Absent(f"{row.url}: {_OFFLINE if may_fetch else 'not asked'}")
    path = cache.official_path(row)
    try:
        fetch(row.url, path, what=row.full_name, check=_check_arrived)
    except DownloadError as error:
        closed = f"; {_CLOSED}" if error.status == 403 else ""
        return _Absent(f"{row.url}: {error}{closed}")
    return Located(path, str(path))


def _in_kept_mirror(row: OfficialWeights) -> Located | None:
    """The mirror if it was fetched before; if not, whether it can be is said of it later."""
    answer = _in_mirror(row, may_fetch=False)
    return answer if isinstance(answer, Located) else None


def _in_mirror(row: OfficialWeights, may_fetch: bool) -> Located | _Absent:
    if row.mirror is None:
        return _Absent("on the Hub: no mirror of these weights is known")
    try:
        files = hub.find_on_hub(row.mirror, may_fetch=may_fetch)
    except hub.HubError as error:
        return _Absent(f"{row.mirror} on the Hub ({hub.endpoint()}): {error}")
    lacks = " and ".join(f"no {part}" for part in row.lacks.split(", ") if part)
    note = f"from the mirror {row.mirror}" + (f", which has {lacks}" if lacks else "")
    notes = (note, files.remark) if files.remark else (note,)
    return Located(files.weights, row.mirror, files.companions, notes=notes)


def _ways_forward(row: OfficialWeights, folder: Path) -> list[str]:
    ways = [f"put the file at {folder / row.collection / row.name}.npz"]
    if row.mirror:
        kept = f"models--{row.mirror.replace('/', '--')}"
        ways.append(
            f"fetch the mirror where the Hub can be reached, with `hf download {row.mirror}`, and "
            f"bring {kept} from the cache there to {hub.cache_folder()}; HF_HOME moves that "
            f"folder, HF_ENDPOINT names another Hub"
        )
    elif like := relatives(row):
        ways.append(f"take like weights, of which the Hub has a mirror: {', '.join(like)}")
    return [*ways, _WITHOUT_THEM]
