"""The findings as one page that needs nothing else: thumbnails are inside."""

import base64
import html
import io
from collections.abc import Iterator

from PIL import Image, ImageDraw

from vit_lightning.check.collection import Collection
from vit_lightning.check.duplicates import Pair
from vit_lightning.check.findings import Findings
from vit_lightning.check.text import as_text, count_pairs, describe_pair, sections
from vit_lightning.console import printable
from vit_lightning.data.pictures import OpenPicture
from vit_lightning.errors import InputError

_SIDE = 128  # pixels of a thumbnail
_MOST_PAIRS = 300  # of a section
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em;
  color: #222; background: #fff }
pre { white-space: pre-wrap; font-size: 13px; background: #f5f5f5; padding: 1em }
.pairs { display: flex; flex-wrap: wrap; gap: 12px }
figure { margin: 0; width: 270px } figcaption { font-size: 11px; overflow-wrap: anywhere }
img { vertical-align: top } .bad { color: #a00 }
"""


def as_html(findings: Findings) -> str:
    """One HTML page without a reference to anything outside it."""
    return "".join(_page(findings))


def _page(findings: Findings) -> Iterator[str]:
    collection = findings.collection
    title = _escaped(f"Check of {collection.source.title}")
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
    yield f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    yield "<h2>Problems</h2>\n" if findings.problems else "<p>No problems found.</p>\n"
    yield from _list(findings.problems, "bad")
    if findings.notes:
        yield "<h2>Notes</h2>\n"
        yield from _list(findings.notes, "")
    if collection.unreadable:
        yield "<h2>Cannot be read</h2>\n"
        yield from _list([reason for _, _, reason in collection.unreadable], "")
    for name, pairs in sections(findings):
        yield from _pairs(name.capitalize(), pairs, collection, collection)
    if findings.other is not None:
        name = f"In {findings.other.source.title} too"
        yield from _pairs(name, findings.pairs_between, collection, findings.other)
    yield f"<h2>All figures</h2>\n<pre>{html.escape(as_text(findings))}</pre>\n</body></html>\n"


def _list(sentences: list[str], style: str) -> Iterator[str]:
    yield "<ul>\n"
    for sentence in sentences:
        yield f'<li class="{style}">{_escaped(sentence)}</li>\n'
    yield "</ul>\n"


def _pairs(title: str, pairs: list[Pair], one: Collection, other: Collection) -> Iterator[str]:
    shown = f", the first {_MOST_PAIRS} of them" if len(pairs) > _MOST_PAIRS else ""
    yield f'<h2>{_escaped(title)}: {count_pairs(pairs)}{shown}</h2>\n<div class="pairs">\n'
    for pair in pairs[:_MOST_PAIRS]:
        boxes = (pair.box, None) if pair.box_of_first else (None, pair.box)
        images = [
            _image(where, index, box)
            for where, index, box in zip(
                (one, other), (pair.first, pair.second), boxes, strict=True
            )
        ]
        caption = _escaped(describe_pair(pair, one, other))
        yield f"<figure>{' '.join(images)}<figcaption>{caption}</figcaption></figure>\n"
    yield "</div>\n"


def _image(
    collection: Collection, entry: int, box: tuple[float, float, float, float] | None
) -> str:
    """A thumbnail, with a frame around what the smaller picture shows."""
    name = _escaped(collection.entries[entry].name)
    try:
        picture = _thumbnail(collection.open(entry))
    except InputError:  # it was there when it was read first
        return f'<span class="bad">{name} is gone</span>'
    if box is not None:
        _frame(picture, box)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{name}" title="{name}" src="data:image/jpeg;base64,{data}">'


def _thumbnail(opened: OpenPicture) -> Image.Image:
    height, width = opened.size
    scale = _SIDE / max(width, height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    picture, region = opened.part((0, 0, width, height), size[::-1])
    return picture.resize(size, Image.Resampling.BICUBIC, box=region, reducing_gap=2.0)


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _frame(picture: Image.Image, box: tuple[float, float, float, float]) -> None:
    x, y, width, height = box
    corners = [
        (x - width / 2) * picture.width,
        (y - height / 2) * picture.height,
        (x + width / 2) * picture.width - 1,
        (y + height / 2) * picture.height - 1,
    ]
    ImageDraw.Draw(picture).rectangle(corners, outline="#ff00ff")
