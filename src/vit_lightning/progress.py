"""Progress of a long step: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

_LINE_SECONDS = 10.0  # between two plain lines
_BAR_SECONDS = 1.0  # before it a bar would only flash up


class Progress:
    """Counts what is done, with the rate and the time left, on stderr.

    Args:
        total: how much there is to do.
        what: what is being done, such as ``read``.
        unit: what is counted.
    """

    def __init__(self, total: int, what: str, unit: str = "images") -> None:
        self.total, self.what, self.unit = total, what, unit
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None  # tqdm has no types
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                desc=what,
                unit=f" {unit}",
                dynamic_ncols=True,
                delay=_BAR_SECONDS,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int) -> None:
        """``count`` more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        rate = self._done / (time.monotonic() - self._start)
        seconds = round((self.total - self._done) / max(rate, 1e-9))
        return (
            f"{self.what}: {self._done:,}/{self.total:,}, {rate:,.0f} {self.unit}/s, "
            f"about {seconds // 60}:{seconds % 60:02d} left"
        )
