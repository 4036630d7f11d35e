"""What libraries write of their preprocessing, in terms of ours."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from vit_lightning.errors import InputError

# Pillow's numbers of the filters that are had here, as Hugging Face writes them, and of the others.
RESAMPLE: Mapping[int, str] = {2: "bilinear", 3: "bicubic"}
_OTHER_FILTERS: Mapping[int, str] = {0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}
_SHORT_FILTERS = ("nearest", "nearest-exact", "box", "hamming")  # bilinear is nearest to them
# What timm takes where its configuration does not say.
_TIMM_CROP, _TIMM_MEAN, _TIMM_STD = 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HF_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_HF_HARMLESS = ("do_convert_rgb", "do_reduce_labels")  # done here as well; for segmentation
_HF_OTHERS = ("rescale_offset", "crop_pct")  # of processors that are not ViT's


def timm_view(trained: Mapping[str, Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The preprocessing of timm's ``pretrained_cfg``.

    Returns:
        Plain values of a preprocessing without its size, or None where mean and std are not said;
        and a sentence on each part of the geometry that is not had here, with what replaced it.

    Raises:
        InputError: a value that cannot be.
    """
    if not trained.get("mean") and not trained.get("std"):
        return None, ()
    notes: list[str] = []
    mode = trained.get("crop_mode") or "center"
    modes = {"center": "crop", "squash": "squash"}
    if mode not in modes:
        nearest = "squash" if mode == "border" else "center"
        notes.append(_replaced("crop_mode", mode, repr(nearest)))
        mode = nearest
    return {
        "mode": modes[mode],
        "mean": _channels(trained.get("mean") or _TIMM_MEAN, "mean"),
        "std": _channels(trained.get("std") or _TIMM_STD, "std"),
        "interpolation": _filter(trained.get("interpolation") or "bicubic", "interpolation", notes),
        "crop_fraction": _crop_fraction(trained.get("crop_pct") or _TIMM_CROP, "crop_pct", notes),
    }, tuple(notes)


def huggingface_view(processor: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The preprocessing of a ``preprocessor_config.json``; returns and raises as above."""
    notes = [
        f"{name} {reprlib.repr(value)} of the preprocessing is not done here"
        for name, value in processor.items()
        if (name.startswith("do_") or name in _HF_OTHERS)
        and name not in _HF_STEPS + _HF_HARMLESS
        and value
    ]
    mode, fraction = _hf_geometry(processor, notes)
    mean, std = _hf_normalisation(processor)
    resample = processor.get("resample")
    if resample is None:
        resample = 2  # as transformers has it
    known = {**RESAMPLE, **_OTHER_FILTERS}
    if type(resample) is not int or resample not in known:
        raise InputError(f"resample must be one of Pillow's filters 0 to 5, got {resample!r}")
    return {
        "mode": mode,
        "mean": mean,
        "std": std,
        "interpolation": _filter(known[resample], f"resample {resample}:", notes),
        "crop_fraction": fraction,
    }, tuple(notes)


def _hf_geometry(processor: Mapping[str, Any], notes: list[str]) -> tuple[str, float]:
    """Mode and crop_fraction; what they cannot express is added to ``notes``."""
    crops = _switch(processor, "do_center_crop", False)
    if not _switch(processor, "do_resize", True):
        mode = "crop" if crops else "squash"
        notes.append(_replaced("do_resize", False, f"resizing to the model's size, {mode!r}"))
        return mode, 1.0
    size = processor.get("size")
    keeps_shape = isinstance(size, Mapping) and set(size) == {"shortest_edge"}
    if isinstance(size, Mapping) and not keeps_shape and not {"height", "width"} <= set(size):
        notes.append(_replaced("size", size, "resizing each side, 'squash'"))
        return "squash", 1.0
    mode = "crop" if keeps_shape else "squash"
    if not crops:
        if keeps_shape:
            notes.append(_replaced("size", size, "its centre at the model's size, 'crop'"))
        return mode, 1.0
    resized, cropped = _sides(size, "size"), _sides(processor.get("crop_size"), "crop_size")
    if keeps_shape:
        fraction, same = _fraction(max(cropped), resized[0]), cropped[0] == cropped[1]
    else:
        fraction = _fraction(min(cropped), min(resized))
        same = all(
            math.floor(cut / fraction) == full for cut, full in zip(cropped, resized, strict=True)
        )
    if not same and fraction <= 1:
        by = f"{mode!r} of the central {fraction:g}"
        notes.append(_replaced("crop_size", processor["crop_size"], by))
    return mode, _crop_fraction(fraction, "crop_size over size", notes)


def _hf_normalisation(processor: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std of pixels in [0, 1].

    The processor computes (pixels · factor - mean) / std of pixels in [0, 255].
    """
    mean, std = [0.0] * 3, [1.0] * 3
    if _switch(processor, "do_normalize", True):
        given = (processor.get(name) for name in ("image_mean", "image_std"))
        mean, std = (
            _channels(0.5 if value is None else value, name)
            for value, name in zip(given, ("image_mean", "image_std"), strict=True)
        )
    factor = 1.0
    if _switch(processor, "do_rescale", True):
        said = processor.get("rescale_factor")
        factor = 1 / 255 if said is None else finite_number(said, "rescale_factor")
        if factor <= 0:
            raise InputError(f"rescale_factor must be positive, got {factor!r}")
    white = 255 * factor
    if math.isclose(white, 1.0, rel_tol=1e-6):
        return mean, std
    mean, std = [value / white for value in mean], [value / white for value in std]
    if not all(0 <= value <= 1 for value in mean + std):
        raise InputError(
            f"do_rescale and rescale_factor, which multiply pixels by {factor:g}, make mean {mean} "
            f"and std {std} of pixels in [0, 1]: they must lie in [0, 1]"
        )
    return mean, std


def _filter(name: Any, setting: str, notes: list[str]) -> str:
    """The filter of this name, or the nearest that is had here."""
    if name in RESAMPLE.values():
        return str(name)
    nearest = "bilinear" if name in _SHORT_FILTERS else "bicubic"
    notes.append(_replaced(setting, name, repr(nearest)))
    return nearest


def _crop_fraction(value: Any, name: str, notes: list[str]) -> float:
    fraction = finite_number(value, name)
    if fraction <= 0:
        raise InputError(f"{name} must be positive, got {value!r}")
    if fraction > 1:
        notes.append(_replaced(name, value, "1.0, without borders"))
    return min(fraction, 1.0)


def _fraction(cropped: float, resized: float) -> float:
    """The fraction of which ``floor(cropped / fraction)`` makes ``resized`` again."""
    fraction = cropped / resized
    return fraction if cropped / fraction >= resized else math.nextafter(fraction, 0.0)


def _replaced(setting: str, value: object, by: str) -> str:
    return (
        f"{setting} {reprlib.repr(value)} of the preprocessing is not had here and was replaced "
        f"by {by}: predictions may differ a little from the other library's"
    )


def _sides(value: Any, name: str) -> tuple[int, int]:
    """(height, width) in pixels; of a shortest edge, that for both."""
    pair = value
    if isinstance(value, Mapping):
        edge = value.get("shortest_edge")
        pair = (value.get("height", edge), value.get("width", edge))
    elif not isinstance(value, list):
        pair = (value, value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise InputError(f"{name} must be positive pixels, got {reprlib.repr(value)}")
    return pair[0], pair[1]


def _switch(processor: Mapping[str, Any], name: str, default: bool) -> bool:
    value = processor.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise InputError(f"{name} must be true or false, got {reprlib.repr(value)}")
    return value


def _channels(value: Any, name: str) -> list[float]:
    """Mean or std: numbers, or one for three channels."""
    numbers = value if isinstance(value, list | tuple) else [value] * 3
    if not numbers:
        raise InputError(f"{name} is empty: it must hold a number for each channel")
    return [finite_number(number, name) for number in numbers]


def finite_number(value: object, name: str) -> float:
    """A number of a JSON file.

    Raises:
        InputError: naming what it is, where it is no number, or not finite.
    """
    if type(value) in (int, float):
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if math.isfinite(number):
            return number
    raise InputError(f"{name} must be a finite number, got {reprlib.repr(value)}")
