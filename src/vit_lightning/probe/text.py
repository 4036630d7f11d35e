"""A baseline as text for a terminal."""

import shlex
from pathlib import Path

from vit_lightning.console import printable_lines, tool
from vit_lightning.figures import short_name
from vit_lightning.probe.outcome import Outcome
from vit_lightning.probe.run import BaselineResult

_WORST = 5  # classes
_WIDTH = 40  # of a class' name


def as_text(result: BaselineResult, written: Path | None = None) -> str:
    """Tables and advice.

    Args:
        result: what was measured.
        written: where the recipe has been written to, if it has.
    """
    blocks = [_head(result), _table(result), *_details(result), _recipe(result, written)]
    return printable_lines("\n\n".join(blocks))


def _head(result: BaselineResult) -> str:
    lines = [*result.notes]
    total = result.num_train + result.num_val
    known = f", {result.kept:,} of them known from before" if result.kept else ""
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    lines.append(f"features: {result.embed_dim} of each of {total:,} pictures{known}")
    lines.append(f"seconds: {parts}")
    for split, names in result.unreadable.items():
        if names:
            lines.append(f"{split}: {len(names)} left out, as they cannot be read")
    return "\n".join(lines)


def _table(result: BaselineResult) -> str:
    measure = "mAP" if result.multi_label else "top-1"
    width = max(len(outcome.method) for outcome in result.outcomes)
    lines = [
        f"fitted on {result.num_train:,} pictures of train, measured on {result.num_val:,} of val",
        f"{'':<{width}}  {measure:>7}  {'95 % interval':>18}  seconds",
    ]
    for outcome in result.outcomes:
        interval = "–"
        if outcome.interval is not None:
            interval = " to ".join(f"{end:.2%}" for end in outcome.interval)
        score = "–" if outcome.score is None else f"{outcome.score:.2%}"
        lines.append(
            f"{outcome.method:<{width}}  {score:>7}  {interval:>18}  {outcome.seconds:7.2f}"
        )
    lines.append(f"(penalty {result.penalty:g}, chosen on a part of train)")
    lines += [f"but: {doubt}" for doubt in result.doubts]
    return "\n".join(lines)


def _details(result: BaselineResult) -> list[str]:
    """Where the best of the methods is wrong."""
    best = result.best
    blocks = []
    known = [(recall, k) for k, recall in enumerate(best.recall) if recall is not None]
    worst = [(recall, k) for recall, k in sorted(known) if recall < 1][:_WORST]
    if worst:
        names = [(short_name(result.classes[k], _WIDTH), recall) for recall, k in worst]
        width = max(len(name) for name, _ in names)
        lines = [f"{name:<{width}}  {recall:7.2%}" for name, recall in names]
        blocks.append("\n".join([f"lowest recall, {best.method}:", *lines]))
    if best.confused:
        blocks.append("\n".join([f"confused most often, {best.method}:", *_pairs(best)]))
    return blocks


def _pairs(outcome: Outcome) -> list[str]:
    return [
        f"{count:>5}  {short_name(label, _WIDTH)}, taken for {short_name(guess, _WIDTH)}"
        for label, guess, count in outcome.confused
    ]


def _recipe(result: BaselineResult, written: Path | None) -> str:
    width = max(len(advice.setting) for advice in result.recipe)
    lines = ["What to do: fine-tune. By rules of thumb, a start and not a promise:"]
    lines += [f"  {advice.setting:<{width}}  {advice.reason}" for advice in result.recipe]
    if written is None:
        lines.append("--write FILE writes it as an experiment file, for vit train FILE.")
    else:
        lines.append(f"written: {shlex.join([tool('vit'), 'train', str(written)])}")
    return "\n".join(lines)
