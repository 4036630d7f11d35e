"""Text that may hold anything, as Markdown that says just that."""

import re
import unicodedata
from collections.abc import Sequence

# In a row of text each of these can begin something else: a tag, an entity, a formula, code,
# emphasis, a link, a cell.
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;", "$": "&#36;"}
_ESCAPED = frozenset("`*_[]|~")
_LINKS = (("://", "&#58;//"), ("www.", "www&#46;"))
# At the beginning of a line these are a list, a heading, a rule.
_BLOCK = re.compile(r"(\d{0,9})([-+#=.):])")
# They turn the direction of what follows, also after the end of a name.
_DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str, limit: int = 200) -> str:
    """``text`` as one line of characters that can be shown, shortened to ``limit``."""
    shown = "".join(_shown(character) for character in text)
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def escape(text: str, limit: int = 200) -> str:
    """``text`` as one line of Markdown that renders as it stands, also in a table's cell."""
    line = one_line(text, limit)
    start = _BLOCK.match(line)
    written = "".join(_written(character) for character in line)
    if start:
        # A digit, a hyphen and the like are written as they are, so that the place is the same.
        written = f"{start[1]}\\{written[len(start[1]) :]}"
    for link, reference in _LINKS:
        written = written.replace(link, reference)
    return written


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cs":  # half of a character: of a file name that is not UTF-8
        return "\ufffd"
    if kind in {"Cc", "Zl", "Zp"}:
        return " "
    return "" if character in _DIRECTIONS else character


def _written(character: str) -> str:
    if character in _ESCAPED:
        return f"\\{character}"
    return _REFERENCES.get(character, character)
