"""What was measured, for people."""

from collections.abc import Iterator
from typing import Any

from vit_lightning.bench.trials import PAYS

_BAR = 30  # characters of a whole step

_NAMES = {
    "norms": "LayerNorms",
    "qkv": "attention, qkv",
    "attention": "attention itself",
    "proj": "attention, proj",
    "fc1": "MLP, fc1",
    "GELU": "MLP, GELU",
    "fc2": "MLP, fc2",
    "rest": "additions, copies, loss",
}


def as_text(values: dict[str, Any]) -> str:
    """The figures of ``bench``, with what follows from them."""
    height, width = values["image_size"]
    pictures = "picture" if values["batch"] == 1 else "pictures"
    sections = (
        [
            f"{values['model']}, {values['parameters'] / 1e6:.1f}M parameters, {height} x {width}: "
            f"{values['mode']} in {values['precision']}, {values['batch']} {pictures} at once"
        ],
        _machine(values),
        _speed(values),
        ["where the time goes", *_parts(values["parts"], values["linear"])],
        ["what to change", *_changes(values)],
    )
    return "\n\n".join("\n".join(lines) for lines in sections)


def _machine(values: dict[str, Any]) -> list[str]:
    hardware = values["hardware"]
    flags = " ".join(hardware["cpu_flags"]) or "not told by this system"
    return [
        *(f"GPU       {gpu}" for gpu in hardware["gpus"]),
        f"processor {hardware['cpu']}, {hardware['usable_cores']} of {hardware['cores']} cores, "
        f"{hardware['torch_threads']} threads",
        f"          torch uses {hardware['cpu_capability']}; it has {flags}",
        f"software  torch {values['versions']['torch']}, Python {values['versions']['python']}, "
        f"dense layers by {values['linear']}, "
        f"OMP_WAIT_POLICY {hardware['omp_wait_policy'] or 'not set'}, "
        f"GOMP_SPINCOUNT {hardware['gomp_spincount'] or 'not set'}",
    ]


def _speed(values: dict[str, Any]) -> list[str]:
    rate, slow, fast = values["images_a_second"]
    spent, longest, shortest = values["milliseconds_a_picture"]
    matrix = values["limit"]["matrix"]
    ways = dict.fromkeys(layer["way"] for layer in matrix["layers"])
    bandwidth = values["limit"]["memory_gb_a_second"]
    reading = 4 * values["parameters"] / bandwidth / 1e6
    return [
        f"speed     {rate:.4g} images/s ({slow:.4g} to {fast:.4g} in {values['turns']} turns), "
        f"{spent:.4g} ms a picture ({shortest:.4g} to {longest:.4g})",
        f"limit     {values['of_the_limit']:.0%} of the speed of the dense layers alone, which is "
        f"{matrix['gflop_a_second']:,.0f} GFLOP/s here",
        f"          with each in its fastest way: {'; '.join(ways)}",
        f"memory    {bandwidth:,.4g} GB/s: reading the weights takes {reading:.3g} ms of each step",
    ]


def _parts(parts: dict[str, float], linear: str) -> Iterator[str]:
    names = _NAMES | ({"fc1": "MLP, fc1 with GELU"} if linear == "onednn with gelu" else {})
    for part, share in parts.items():
        bar = "█" * round(_BAR * share)
        yield f"  {names.get(part, part):<24}{share:6.1%}  {bar}".rstrip()


def _changes(values: dict[str, Any]) -> Iterator[str]:
    for trial in values["trials"]:
        yield f"  {trial['what']:<12} {trial['times']:5.2f}×  {_verdict(trial, values['batch'])}"
    if values["hardware"]["omp_wait_policy"].lower() == "active":
        yield (
            "  OMP_WAIT_POLICY is active: waiting threads take the cores from all other programs; "
            "compare with it unset"
        )


def _verdict(trial: dict[str, Any], batch: int) -> str:
    if "spread" not in trial:
        return "as many operations a second in products of matrices: slower here, leave it"
    low, high = trial["spread"]
    spread = f"as many images/s ({low:.2f} to {high:.2f}): "
    if trial["times"] >= PAYS and low >= 1:
        return f"{spread}pays, {trial['how']}"
    if trial["times"] * PAYS > 1 or high > 1:
        return f"{spread}no clear gain"
    return f"{spread}slower, " + (
        f"batches of {batch} pay" if trial["batch"] < batch else "leave it"
    )
