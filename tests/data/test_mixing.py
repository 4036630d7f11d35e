"""Pairs are mixed as drawn, wherever the batch is cut; the draws follow their papers."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.data.draws import sample_generator
from vit_lightning.data.mixing import Mixing, mix_pairs, soft_targets

SIZE = (12, 20)
UNMIXED = [1.0, 0.0, 0.0, 0.0, 0.0]


def draws(mixing: Mixing, count: int, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    return np.stack([mixing.draw(sample_generator(3, 0, index), size) for index in range(count)])


def batch(count: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images, targets and draws of both ways of mixing and of none."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, channels, *SIZE, generator=generator)
    targets = soft_targets(torch.randint(5, (count,), generator=generator), 5)
    drawn = torch.from_numpy(draws(Mixing(0.8, 1.0, 0.8), count // 2))
    return images, targets, drawn


def test_a_batch_is_mixed_as_its_halves_are() -> None:
    images, targets, drawn = batch(8)
    whole = mix_pairs(images, targets, drawn)
    halves = [
        mix_pairs(images[part], targets[part], drawn[part.start // 2 : part.stop // 2])
        for part in (slice(0, 4), slice(4, 8))
    ]
    for index in range(2):
        assert torch.equal(whole[index], torch.cat([half[index] for half in halves]))
    assert not torch.equal(whole[0], images)


def test_mixing_against_a_loop() -> None:
    images, targets, drawn = batch(40)
    mixed, mixed_targets = mix_pairs(images, targets, drawn)
    kinds = set()
    for pair, (weight, top, left, bottom, right) in enumerate(drawn.tolist()):
        for own, other in ((2 * pair, 2 * pair + 1), (2 * pair + 1, 2 * pair)):
            expected = weight * images[own] + (1 - weight) * images[other]
            if bottom > top:
                box = slice(int(top), int(bottom)), slice(int(left), int(right))
                expected = images[own].clone()
                expected[:, *box] = images[other][:, *box]
                assert torch.equal(mixed[own], expected)
            torch.testing.assert_close(mixed[own], expected)
            torch.testing.assert_close(
                mixed_targets[own], weight * targets[own] + (1 - weight) * targets[other]
            )
        kinds.add("box" if bottom > top else "blend" if weight < 1 else "none")
    assert kinds == {"box", "blend", "none"}


def test_constants_blend_exactly() -> None:
    images = torch.stack([torch.full((3, *SIZE), value) for value in (2.0, -2.0)])
    drawn = torch.tensor([[0.75, 0, 0, 0, 0]])
    mixed, targets = mix_pairs(images, torch.eye(2), drawn)
    assert (mixed[0] == 1).all()
    assert (mixed[1] == -1).all()
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_targets_sum_to_one() -> None:
    _, targets, drawn = batch(200, channels=1)
    mixed = mix_pairs(torch.zeros(200, 1, 1, 1), targets, drawn)[1]
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(200))
    assert ((mixed > 0).sum(dim=1) == 2).any()


def test_the_weight_of_cutmix_is_what_is_left_outside_the_box() -> None:
    drawn = torch.from_numpy(draws(Mixing(0.0, 1.0, 1.0), 200))
    images = torch.cat([torch.ones(1, 1, *SIZE), torch.zeros(1, 1, *SIZE)]).repeat(200, 1, 1, 1)
    mixed = mix_pairs(images, torch.zeros(400, 1), drawn)[0]
    torch.testing.assert_close(mixed[::2].mean(dim=(1, 2, 3)), drawn[:, 0])
    torch.testing.assert_close(mixed[1::2].mean(dim=(1, 2, 3)), 1 - drawn[:, 0])
    assert len(set(drawn[:, 0].tolist())) > 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_memory_format_are_kept(dtype: torch.dtype) -> None:
    images, targets, drawn = batch(8)
    planar = mix_pairs(images.to(dtype), targets, drawn)
    packed = mix_pairs(
        images.to(dtype).contiguous(memory_format=torch.channels_last), targets, drawn
    )
    assert planar[0].dtype == packed[0].dtype == dtype
    assert planar[1].dtype == torch.float32
    assert planar[0].is_contiguous()
    assert packed[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(planar[0], packed[0])
    torch.testing.assert_close(planar[0].float(), mix_pairs(*batch(8))[0], atol=0.02, rtol=0.01)


def test_inputs_stay_as_they_are() -> None:
    images, targets, drawn = batch(8)
    mix_pairs(images, targets, drawn)
    for before, after in zip(batch(8), (images, targets, drawn), strict=True):
        assert torch.equal(before, after)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device() -> None:
    images, targets, drawn = batch(8)
    expected = mix_pairs(images, targets, drawn)
    on_device = [tensor.cuda() for tensor in (images, targets, drawn)]
    labels = torch.arange(5).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = mix_pairs(*on_device)
        ones = soft_targets(labels, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found[0].cpu(), expected[0])
    assert torch.equal(ones.cpu(), torch.eye(5))


def test_odd_batches_and_missing_draws_are_refused() -> None:
    images, targets, drawn = batch(8)
    with pytest.raises(ValueError, match="pairs are mixed"):
        mix_pairs(images[:7], targets[:7], drawn[:3])
    with pytest.raises(ValueError, match="pairs are mixed"):
        mix_pairs(images, targets, drawn[:3])


def test_mixup_draws_follow_beta() -> None:
    found = draws(Mixing(0.2, 0.0, 1.0), 3000)
    assert not found[:, 1:].any()
    assert found[:, 0].min() >= 0.5
    generator = np.random.default_rng(0)
    folded = np.abs(generator.beta(0.2, 0.2, size=100_000) - 0.5) + 0.5
    for share in (0.1, 0.5, 0.9):
        expected = np.quantile(folded, share)
        assert np.quantile(found[:, 0], share) == pytest.approx(expected, abs=0.02)


def test_cutmix_boxes_follow_their_law() -> None:
    found = draws(Mixing(0.0, 1.0, 1.0), 3000, (64, 96))
    weight, top, left, bottom, right = found.T
    assert min(top.min(), left.min()) == 0
    assert (bottom.max(), right.max()) == (64, 96)
    inside = (top > 0) & (left > 0) & (bottom < 64) & (right < 96)
    assert inside.mean() == pytest.approx(1 / 6, abs=0.03)  # the mean of (1 - side)²
    large = inside & (bottom - top > 10)
    aspect = (right - left)[large] / (bottom - top)[large]
    assert aspect.mean() == pytest.approx(1.5, abs=0.03)
    # What would be cut out is uniform (alpha 1); cutting it off at the edges leaves less.
    generator = np.random.default_rng(0)
    side = np.sqrt(generator.random(200_000))
    centre = generator.random((2, 200_000))
    cut = np.minimum(centre + side / 2, 1) - np.maximum(centre - side / 2, 0)
    assert (1 - weight).mean() == pytest.approx(cut.prod(axis=0).mean(), abs=0.015)


def test_each_way_takes_half_of_what_is_mixed() -> None:
    found = draws(Mixing(0.8, 1.0, 0.8), 2000, (224, 224))
    boxed, unmixed = found[:, 3] > found[:, 1], found[:, 0] == 1
    assert abs(unmixed.sum() - 400) < 75
    assert abs(boxed.sum() - 800) < 90
    assert (draws(Mixing(0.0, 0.0, 1.0), 5) == UNMIXED).all()
    assert (draws(Mixing(0.8, 1.0, 0.0), 5) == UNMIXED).all()


@pytest.mark.parametrize("alpha", [1e-3, 10.0])
def test_extreme_alphas_give_numbers(alpha: float) -> None:
    for mixing in (Mixing(alpha, 0.0, 1.0), Mixing(0.0, alpha, 1.0)):
        found = draws(mixing, 200, (3, 2))
        assert ((found[:, 0] >= 0) & (found[:, 0] <= 1)).all()


def test_the_draws_of_a_seed_never_change() -> None:
    # Pinned, so that a run resumed with a newer version sees the same pictures.
    found = draws(Mixing(0.8, 1.0, 1.0), 4, (224, 224))
    boxes = [[0, 0, 169, 182], [13, 139, 45, 171], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found[:, 1:].tolist() == boxes
    expected = [0.38699776, 0.97959185, 0.7131955, 0.96887785]
    assert found[:, 0] == pytest.approx(expected, abs=1e-6)


def test_soft_targets_are_one_hot() -> None:
    assert soft_targets(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
