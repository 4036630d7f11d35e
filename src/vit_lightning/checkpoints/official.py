"""The weights Google released: their names, what each file holds, and where copies of it are."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from vit_lightning.errors import InputError

BUCKET = "https://storage.googleapis.com/vit_models"
COLLECTIONS = ("imagenet21k", "imagenet21k+imagenet2012", "augreg", "sam")

# Of these the bucket has more than the table names: AugReg alone has 50,000 files.
_MORE = {
    "augreg": re.compile(r"(?:R_Ti|R26_S|R50_L|Ti|S|B|L)_(?:8|16|32)-i(?:1|21)k-[-\w.]+"),
    "sam": re.compile(r"ViT-(?:Ti|S|B|L)_(?:8|14|16|32)"),
}
_CLASSES = {"imagenet21k": 21_843, "imagenet21k+imagenet2012": 1000, "sam": 1000}
# What AugReg's models were trained on, by the last of these words in the name.
_AUGREG_CLASSES = {"-i21k-": 21_843, "-i1k-": 1000, "--imagenet2012-": 1000, "--cifar100-": 100}


@dataclass(frozen=True)
class OfficialWeights:
    """A file of the bucket; all but the last two follow from the name.

    Args:
        collection: the bucket's folder.
        name: the file's name without its suffix.
        num_classes: outputs of its head; None where the name does not tell.
        image_size: pixels of a side of the pictures its position grid is for.
        patch_size: pixels of a side of what one token covers, with the stem of a hybrid.
        mirror: the Hub's repository with the same weights, or None.
        lacks: what the mirror does not have of the official file, such as "pre_logits, head".
    """

    collection: str
    name: str
    num_classes: int | None
    image_size: int
    patch_size: int
    mirror: str | None = None
    lacks: str = ""

    @property
    def full_name(self) -> str:
        """The name as one gives it: ``imagenet21k/ViT-B_16``."""
        return f"{self.collection}/{self.name}"

    @property
    def url(self) -> str:
        """Where Google keeps it."""
        return f"{BUCKET}/{self.full_name}.npz"


def find_official(spec: str) -> OfficialWeights | None:
    """The official weights of this name, with or without ``.npz``; None if it is no such name.

    Raises:
        InputError: a collection of Google's without such a file, or a file's name alone, which
            several collections may have; the message says which names there are.
    """
    collection, slash, name = spec.removesuffix(".npz").rpartition("/")
    if not slash:
        names = official_names_of(name)
        if not names:
            return None
        raise InputError(
            f"{spec!r} is a file's name; official weights are given with their collection: "
            f"{', '.join(names)}"
        )
    if collection not in COLLECTIONS:
        return None
    full_name = f"{collection}/{name}"
    if full_name in OFFICIAL:
        return OFFICIAL[full_name]
    if collection in _MORE and _MORE[collection].fullmatch(name):
        return _row(full_name)
    near = difflib.get_close_matches(full_name, OFFICIAL, n=3, cutoff=0.5)
    names = near or [known for known in OFFICIAL if known.startswith(f"{collection}/")]
    raise InputError(
        f"there are no official weights {full_name!r}; there are {', '.join(names)}. If the Hub's "
        f"repository of this name is meant, give it as hf-hub:{full_name}"
    )


def official_names_of(name: str) -> list[str]:
    """The official names that end in a file's name, with or without ``.npz``."""
    name = name.removesuffix(".npz")
    return [full for full, row in OFFICIAL.items() if row.name == name]


def relatives(row: OfficialWeights) -> list[str]:
    """Names of weights of the same model that have a mirror, those most like ``row`` first."""
    kind = _kind(row)
    alike = [name for name, other in OFFICIAL.items() if other.mirror and _kind(other) == kind]
    return difflib.get_close_matches(row.full_name, alike, n=2, cutoff=0.5)


def misfit(row: OfficialWeights, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why arrays of these shapes cannot be the official ones; empty if they may well be.

    Two official files can have one name: they differ in the head and in the position grid.

    Args:
        row: the weights asked for.
        shapes: key → shape of a file in Google's layout.
    """
    head = shapes.get("head/kernel", ())
    if len(head) != 2:
        return "it has no head"
    if row.num_classes is not None and head[1] != row.num_classes:
        return f"its head has {head[1]:,} classes, {row.full_name} has {row.num_classes:,}"
    positions = shapes.get("Transformer/posembed_input/pos_embedding", ())
    if len(positions) != 3:
        return "it has no position embedding"
    side = row.image_size // row.patch_size
    patches = positions[1] - ("cls" in shapes)
    if patches != side**2:
        root = math.isqrt(max(patches, 0))
        found = f"{root} × {root}" if root**2 == patches else f"{patches} positions"
        return f"its grid is {found}, that of {row.full_name} {side} × {side}"
    return ""


def _kind(row: OfficialWeights) -> tuple[str, int | None, int]:
    return row.name.removesuffix("-224").split("-i")[0], row.num_classes, row.image_size


def _row(full_name: str, mirror: str | None = None, lacks: str = "") -> OfficialWeights:
    collection, _, name = full_name.partition("/")
    return OfficialWeights(
        collection,
        name,
        _num_classes(collection, name),
        _image_size(collection, name),
        _patch_size(name),
        mirror=mirror,
        lacks=lacks,
    )


def _patch_size(name: str) -> int:
    if name.startswith("R_Ti_16-"):  # 16 but in name: the stem shrinks by 4, its patches by 8
        return 32
    match = re.search(r"_(\d+)", name.split("-i")[0])
    assert match is not None, name
    return int(match[1])


def _num_classes(collection: str, name: str) -> int | None:
    if collection != "augreg":
        return _CLASSES[collection]
    if "--" in name:
        name = name[name.index("--") :]
    return next((count for word, count in _AUGREG_CLASSES.items() if word in name), None)


def _image_size(collection: str, name: str) -> int:
    if match := re.search(r"-(?:res_)?(\d{3})$", name):
        return int(match[1])
    return 384 if collection == "imagenet21k+imagenet2012" else 224


def _read_table() -> dict[str, OfficialWeights]:
    text = resources.files("vit_lightning.checkpoints").joinpath("official.txt").read_text("utf-8")
    table = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, mirror, *lacks = line.split()
            table[name] = _row(name, None if mirror == "-" else mirror, " ".join(lacks))
    return table


OFFICIAL: dict[str, OfficialWeights] = _read_table()
