"""Preprocessings of other libraries, also those that are not had here, and what replaces them."""

from typing import Any

import pytest

from vit_lightning.checkpoints.views import huggingface_view, timm_view
from vit_lightning.errors import InputError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TIMM: dict[str, Any] = {
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
}
PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
    "size": {"height": 32, "width": 48},
    "resample": 3,
    "rescale_factor": 1 / 255,
}
OURS = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
OF_TIMM = OURS | {"mode": "crop", "crop_fraction": 0.9}
OF_PROCESSOR = OURS | {"mode": "squash", "crop_fraction": 1.0}
CROPS = {"do_center_crop": True, "crop_size": 32}
SHORTEST = {"size": {"shortest_edge": 64}}


class TestTimm:
    def test_what_is_had_needs_no_words(self) -> None:
        assert timm_view(TIMM) == (OF_TIMM, ())

    @pytest.mark.parametrize(
        ("changes", "expected", "words"),
        [
            ({"crop_mode": "border"}, {"mode": "squash"}, ["crop_mode 'border'", "by 'squash'"]),
            ({"crop_mode": "new"}, {"mode": "crop"}, ["crop_mode 'new'", "by 'center'"]),
            ({"interpolation": "lanczos"}, {}, ["interpolation 'lanczos'", "by 'bicubic'"]),
            ({"interpolation": "random"}, {}, ["interpolation 'random'", "by 'bicubic'"]),
            (
                {"interpolation": "nearest"},
                {"interpolation": "bilinear"},
                ["interpolation 'nearest'", "by 'bilinear'"],
            ),
            ({"crop_pct": 1.2}, {"crop_fraction": 1.0}, ["crop_pct 1.2", "by 1.0"]),
        ],
    )
    def test_the_nearest_geometry_keeps_mean_and_std(
        self, changes: dict[str, Any], expected: dict[str, Any], words: list[str]
    ) -> None:
        view, notes = timm_view(TIMM | changes)
        assert view == OF_TIMM | expected
        assert len(notes) == 1
        assert all(word in notes[0] for word in words)

    def test_every_replacement_is_told(self) -> None:
        _, notes = timm_view(
            TIMM | {"crop_mode": "border", "interpolation": "box", "crop_pct": 1.05}
        )
        assert [note.split()[0] for note in notes] == ["crop_mode", "interpolation", "crop_pct"]

    def test_one_of_mean_and_std_alone(self) -> None:
        view, _ = timm_view({"mean": [0.5, 0.5, 0.5]})
        assert view is not None
        assert (view["mean"], view["std"]) == ([0.5, 0.5, 0.5], STD)  # timm's own std
        assert timm_view({"crop_mode": "border"}) == (None, ())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"crop_pct": -0.5}, "crop_pct must be positive"),
            ({"crop_pct": float("nan")}, "crop_pct must be a finite number"),
            ({"crop_pct": True}, "crop_pct must be a finite number, got True"),
            ({"crop_pct": "0.9"}, "crop_pct must be a finite number"),
            ({"mean": [0.5, True, 0.5]}, "mean must be a finite number, got True"),
            ({"std": [0.5, 10**400]}, "std must be a finite number"),
            ({"std": "0.5"}, "std must be a finite number"),
        ],
    )
    def test_what_cannot_be(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            timm_view(TIMM | changes)


class TestHuggingFace:
    def test_what_is_had_needs_no_words(self) -> None:
        assert huggingface_view(PROCESSOR) == (OF_PROCESSOR, ())
        assert huggingface_view(PROCESSOR | {"do_convert_rgb": True, "do_pad": False})[1] == ()

    def test_what_is_null_is_as_transformers_has_it(self) -> None:
        nothing = dict.fromkeys(PROCESSOR) | {"do_center_crop": None}
        halves = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
        assert huggingface_view(nothing) == huggingface_view({}) == (OF_PROCESSOR | halves, ())

    @pytest.mark.parametrize(
        ("changes", "expected", "words"),
        [
            ({"resample": 0}, {"interpolation": "bilinear"}, ["'nearest'", "by 'bilinear'"]),
            ({"resample": 4}, {"interpolation": "bilinear"}, ["'box'", "by 'bilinear'"]),
            ({"resample": 5}, {"interpolation": "bilinear"}, ["'hamming'", "by 'bilinear'"]),
            ({"resample": 1}, {}, ["resample 1: 'lanczos'", "by 'bicubic'"]),
            ({"do_resize": False}, {}, ["do_resize False", "by resizing", "'squash'"]),
            ({"do_resize": False} | CROPS, {"mode": "crop"}, ["do_resize False", "'crop'"]),
            (SHORTEST, {"mode": "crop"}, ["size {'shortest_edge': 64}", "'crop'"]),
            ({"size": {"longest_edge": 64}}, {}, ["size {'longest_edge': 64}", "'squash'"]),
            (SHORTEST | CROPS | {"crop_size": 65}, {"mode": "crop"}, ["over size 1.0", "by 1.0"]),
            (
                SHORTEST | CROPS | {"crop_size": {"height": 16, "width": 32}},
                {"mode": "crop", "crop_fraction": 0.5},
                ["crop_size {'height': 16, 'width': 32}", "by 'crop' of the central 0.5"],
            ),
            (
                CROPS | {"size": {"height": 64, "width": 48}},
                {"crop_fraction": 32 / 48},
                ["crop_size 32", "by 'squash' of the central 0.666667"],
            ),
            ({"do_flip_channel_order": True}, {}, ["do_flip_channel_order True", "not done"]),
            ({"rescale_offset": True}, {}, ["rescale_offset True", "not done"]),
        ],
    )
    def test_the_nearest_geometry_keeps_mean_and_std(
        self, changes: dict[str, Any], expected: dict[str, Any], words: list[str]
    ) -> None:
        view, notes = huggingface_view(PROCESSOR | changes)
        assert view == OF_PROCESSOR | expected
        assert len(notes) == 1
        assert all(word in notes[0] for word in words), notes

    @pytest.mark.parametrize("rescale", [True, False])
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, 1 / 256])
    def test_normalisation(self, rescale: bool, normalize: bool, factor: float) -> None:
        """Pixels become what the processor makes of them, by its own steps."""
        switches = {"do_rescale": rescale, "do_normalize": normalize, "rescale_factor": factor}
        if not normalize and rescale and factor < 1 / 255:
            with pytest.raises(InputError, match="rescale_factor, which multiply pixels by"):
                huggingface_view(PROCESSOR | switches)
            return
        view, notes = huggingface_view(PROCESSOR | switches)
        assert notes == ()
        for level in (0, 100, 255):
            pixel = level * factor if rescale else level
            mean, std = (MEAN[1], STD[1]) if normalize else (0.0, 1.0)
            ours = (level / 255 - view["mean"][1]) / view["std"][1]
            assert ours == pytest.approx((pixel - mean) / std, rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"do_normalize": "no"}, "do_normalize must be true or false, got 'no'"),
            ({"do_resize": 0}, "do_resize must be true or false, got 0"),
            ({"do_rescale": []}, "do_rescale must be true or false"),
            ({"rescale_factor": 0}, "rescale_factor must be positive"),
            ({"rescale_factor": True}, "rescale_factor must be a finite number, got True"),
            ({"rescale_factor": 1e-9}, "do_rescale and rescale_factor"),
            ({"resample": 17}, "resample must be one of Pillow's filters 0 to 5, got 17"),
            ({"resample": True}, "resample must be one of"),
            ({"image_mean": []}, "image_mean is empty"),
            ({"image_std": {"x": 1}}, "image_std must be a finite number"),
            (CROPS | {"crop_size": True}, "crop_size must be positive pixels, got True"),
            (CROPS | {"crop_size": [32]}, "crop_size must be positive pixels"),
            (CROPS | {"size": None}, "size must be positive pixels, got None"),
        ],
    )
    def test_what_cannot_be(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            huggingface_view(PROCESSOR | changes)
