"""Values against direct formulas, Jacobians against automatic differentiation and finite differences, invariances, masks, stacking."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torch.autograd import forward_ad

from SphericalRegLib.errors import InputError
from SphericalRegLib.similarity import GlobalNCC, GradientNCC, LocalNCC, Robust, Stacked, box_kernel, gaussian_kernel
from SphericalRegLib.similarity.filters import dilate, erode, gaussian_derivative_kernel, separable_filter
from SphericalRegLib.similarity.robust import LOSSES, mad_scale

ROWS, COLUMNS = 20, 26

MAKERS = {
    "global": lambda f, m: GlobalNCC(f, m),
    "local box": lambda f, m: LocalNCC(f, m, kernel=box_kernel(5)),
    "local gaussian": lambda f, m: LocalNCC(f, m, kernel=gaussian_kernel(2.0)),
    "gradient": lambda f, m: GradientNCC(f, m),
    "patch gradient": lambda f, m: GradientNCC(f, m, window=box_kernel(7)),
    "fine gradient": lambda f, m: GradientNCC(f, m, window=gaussian_kernel(1.0)),
    "stacked": lambda f, m: Stacked([GlobalNCC(f, m), LocalNCC(f, m)], [1.0, 3.0]),
}


def blobs(seed: int, batch: int | None = None) -> Tensor:
    """Smooth random images, float64, (H, W) or (B, H, W)."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, COLUMNS) if batch is None else (batch, ROWS, COLUMNS)
    sigma = (1.5, 1.5) if batch is None else (0, 1.5, 1.5)
    return torch.from_numpy(ndimage.gaussian_filter(rng.standard_normal(shape), sigma))


def a_mask(seed: int = 5) -> Tensor:
    mask = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    mask[2:17, 4:25] = True
    mask[6, 9] = False
    return mask


def a_valid(batch: int) -> Tensor:
    valid = torch.ones(batch, ROWS, COLUMNS, dtype=torch.bool)
    for b in range(batch):
        valid[b, : 3 + 2 * b, :] = False
    return valid


def made(name: str, fixed: Tensor, mask: Tensor | None, valid: Tensor | None = None):
    similarity = MAKERS[name](fixed, mask)
    return similarity if valid is None else similarity.over(valid)


def autograd_jacobian(similarity, moving: Tensor, jacobian: Tensor) -> Tensor:
    """The residual's derivative along the six columns, by forward-mode differentiation of `residual` alone."""
    columns = []
    for k in range(6):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(moving, jacobian[..., k])
            columns.append(forward_ad.unpack_dual(similarity.residual(dual)).tangent)
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("partly_valid", [False, True])
def test_jacobian_is_the_derivative_of_the_residual(name: str, masked: bool, partly_valid: bool) -> None:
    similarity = made(name, blobs(0), a_mask() if masked else None, a_valid(2) if partly_valid else None)
    moving, jacobian = blobs(1, 2), torch.stack([blobs(10 + k, 2) for k in range(6)], dim=-1)
    residual, exact = similarity.residual_and_jacobian(moving, jacobian)
    torch.testing.assert_close(residual, similarity.residual(moving), rtol=1e-12, atol=1e-12)
    assert exact.shape == (*residual.shape, 6)
    torch.testing.assert_close(exact, autograd_jacobian(similarity, moving, jacobian), rtol=1e-9, atol=1e-9)
    h = 1e-5
    for k in range(6):
        step = h * jacobian[..., k]
        central = (similarity.residual(moving + step) - similarity.residual(moving - step)) / (2 * h)
        torch.testing.assert_close(exact[..., k], central, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_robust_jacobian_at_a_fixed_scale(loss: str) -> None:
    similarity = Robust(GlobalNCC(blobs(0), a_mask()), loss, scale=0.4)
    moving, jacobian = blobs(1, 2), torch.stack([blobs(10 + k, 2) for k in range(6)], dim=-1)
    residual, exact = similarity.residual_and_jacobian(moving, jacobian)
    h = 1e-6
    for k in range(6):
        step = h * jacobian[..., k]
        central = (similarity.residual(moving + step) - similarity.residual(moving - step)) / (2 * h)
        torch.testing.assert_close(exact[..., k], central, rtol=1e-4, atol=1e-5)
    # The square of the residual is the robust loss of the plain one.
    plain = GlobalNCC(blobs(0), a_mask()).residual(moving)
    torch.testing.assert_close(residual.square(), 0.16 * LOSSES[loss](plain / 0.4)[0])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("partly_valid", [False, True])
def test_squared_residual_is_twice_n_times_one_minus_score(name: str, partly_valid: bool) -> None:
    similarity = made(name, blobs(0), a_mask(), a_valid(3) if partly_valid else None)
    moving = blobs(1, 3)
    cost = similarity.residual(moving).square().sum(1)
    score = similarity.score(moving)
    assert bool((score.abs() <= 1).all())
    torch.testing.assert_close(cost, 2 * a_mask().sum() * (1 - score))


def test_global_score_is_pearsons_correlation_inside_the_mask() -> None:
    fixed, moving, mask = blobs(0), blobs(1, 2), a_mask()
    score = GlobalNCC(fixed, mask).score(moving)
    for b in range(2):
        assert score[b].item() == pytest.approx(np.corrcoef(fixed[mask], moving[b][mask])[0, 1], abs=1e-12)


def test_local_features_against_scipy() -> None:
    fixed, moving = blobs(0), blobs(1, 1)

    def locally_standardised(image: np.ndarray) -> np.ndarray:
        image = (image - image.mean()) / image.std()
        inside = ndimage.uniform_filter(np.ones_like(image), 5, mode="constant")
        mean = ndimage.uniform_filter(image, 5, mode="constant") / inside
        variance = ndimage.uniform_filter(image**2, 5, mode="constant") / inside - mean**2
        return (image - mean) / np.sqrt(variance + 0.01)

    expected = np.corrcoef(locally_standardised(fixed.numpy()).ravel(), locally_standardised(moving[0].numpy()).ravel())[0, 1]
    assert LocalNCC(fixed, kernel=box_kernel(5), floor=0.1).score(moving).item() == pytest.approx(expected, abs=1e-12)


def test_gradient_score_against_scipy() -> None:
    fixed, moving = blobs(0), blobs(1, 1)
    inside = (slice(3, -3), slice(3, -3))
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    mask[0] = mask[-1] = False
    mask[:, 0] = mask[:, -1] = False  # eroded by the filter's radius of 3: rows and columns 4 to -4 count
    inside = (slice(4, -4), slice(4, -4))
    score = GradientNCC(fixed, mask, sigma=1.0).score(moving).item()
    expected = 0.0
    for order in ((0, 1), (1, 0)):
        a, b = (ndimage.gaussian_filter(x.numpy(), 1.0, order=order, truncate=3.0)[inside] for x in (fixed, moving[0]))
        expected += np.corrcoef(a.ravel(), b.ravel())[0, 1] / 2
    assert score == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=8, deadline=None)
@given(scale=st.floats(0.01, 100.0), offset=st.floats(-50.0, 50.0))
def test_scale_and_offset_of_either_image_do_not_matter(name: str, scale: float, offset: float) -> None:
    fixed, moving, valid = blobs(0), blobs(1, 2), a_valid(2)
    expected = made(name, fixed, a_mask(), valid).score(moving)
    torch.testing.assert_close(made(name, fixed, a_mask(), valid).score(moving * scale + offset), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(made(name, fixed * scale + offset, a_mask(), valid).score(moving), expected, rtol=0, atol=1e-7)
    assert MAKERS[name](fixed, a_mask()).score(-moving)[0].item() != pytest.approx(expected[0].item(), abs=1e-3)


def test_slow_bias_hurts_the_global_correlation_and_hardly_the_local_ones() -> None:
    fixed = blobs(0)
    bias = torch.linspace(-1, 1, COLUMNS, dtype=torch.float64) * 3 * fixed.std()
    moving = (fixed + bias)[None]
    loss = {name: 1 - MAKERS[name](fixed, None).score(moving).item() for name in ("global", "local box", "gradient", "patch gradient")}
    assert loss["global"] > 0.3
    assert max(loss["local box"], loss["gradient"], loss["patch gradient"]) < loss["global"] / 5


@pytest.mark.parametrize("name", MAKERS)
def test_pixels_outside_mask_or_valid_have_no_influence(name: str) -> None:
    fixed, moving, mask, valid = blobs(0), blobs(1, 2), a_mask(), a_valid(2)
    counted = mask & valid
    disturbed = torch.where(counted, moving, moving + 100 * blobs(3, 2))
    jacobian = torch.stack([blobs(10 + k, 2) for k in range(6)], dim=-1)
    wild = torch.where(counted[..., None], jacobian, 1e3)
    fixed_disturbed = torch.where(mask, fixed, torch.nan)
    r, j = made(name, fixed, mask, valid).residual_and_jacobian(moving, jacobian)
    r2, j2 = made(name, fixed_disturbed, mask, valid).residual_and_jacobian(disturbed, wild)
    torch.testing.assert_close(r2, r, rtol=0, atol=1e-9)
    torch.testing.assert_close(j2, j, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", MAKERS)
def test_all_valid_equals_no_valid_and_a_perfect_match_scores_one(name: str) -> None:
    similarity = MAKERS[name](blobs(0), a_mask())
    moving = blobs(1, 2)
    torch.testing.assert_close(similarity.over(torch.ones_like(moving, dtype=torch.bool)).residual(moving), similarity.residual(moving))
    assert similarity.score(blobs(0)[None]).item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_flat_and_invisible_images_score_zero_with_finite_jacobian(name: str) -> None:
    similarity = MAKERS[name](blobs(0), a_mask())
    moving = torch.stack([torch.zeros(ROWS, COLUMNS), torch.full((ROWS, COLUMNS), 7.0), blobs(1)]).double()
    jacobian = torch.stack([blobs(10 + k, 3) for k in range(6)], dim=-1)
    valid = torch.ones_like(moving, dtype=torch.bool)
    valid[2] = False
    similarity = similarity.over(valid)
    torch.testing.assert_close(similarity.score(moving), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    residual, columns = similarity.residual_and_jacobian(moving, jacobian)
    assert bool(torch.isfinite(residual).all()) and bool(torch.isfinite(columns).all())


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_without_contrast_costs_as_much_as_one_without_correlation(name: str) -> None:
    """The moving image flat; nothing valid; the fixed image flat where it is valid; the fixed image flat everywhere."""
    similarity, n = MAKERS[name](blobs(0), a_mask()), float(a_mask().sum())
    moving = torch.stack([torch.full((ROWS, COLUMNS), 7.0).double(), blobs(1), -blobs(0)])
    jacobian = torch.stack([blobs(10 + k, 3) for k in range(6)], dim=-1)
    valid = torch.ones_like(moving, dtype=torch.bool)
    valid[1] = False
    similarity = similarity.over(valid)
    residual, columns = similarity.residual_and_jacobian(moving, jacobian)
    torch.testing.assert_close(residual, similarity.residual(moving))
    cost = residual.square().sum(1)
    assert cost[:2].tolist() == pytest.approx([2 * n, 2 * n])
    assert cost[2] > 2 * n  # an inverted image is worse than a flat one
    assert bool((columns[:2] == 0).all())
    flat_half = blobs(0)
    flat_half[:, : COLUMNS // 2] = 3.0
    left = torch.zeros_like(valid)
    left[..., : COLUMNS // 2] = True
    for fixed, seen in ((flat_half, left), (torch.full_like(flat_half, 3.0), None)):
        residual, columns = made(name, fixed, a_mask(), seen).residual_and_jacobian(blobs(1, 3), jacobian)
        assert residual.square().sum(1).tolist() == pytest.approx([2 * n] * 3)
        assert bool((columns == 0).all())


@pytest.mark.parametrize("name", MAKERS)
def test_float32_is_close_to_float64(name: str) -> None:
    moving, jacobian = blobs(1, 2) + 30, torch.stack([blobs(10 + k, 2) for k in range(6)], dim=-1)
    r, j = MAKERS[name](blobs(0), a_mask()).residual_and_jacobian(moving, jacobian)
    r32, j32 = MAKERS[name](blobs(0).float(), a_mask()).residual_and_jacobian(moving.float(), jacobian.float())
    assert r32.dtype == j32.dtype == torch.float32
    assert (r32 - r).norm() / r.norm() < 1e-3
    assert (j32 - j).norm() / j.norm() < 1e-3


@pytest.mark.parametrize("name", MAKERS)
def test_single_precision_images_are_compared_with_a_double_precision_one(name: str) -> None:
    similarity = MAKERS[name](blobs(0), a_mask())
    moving, jacobian = blobs(1)[None].float(), torch.stack([blobs(k) for k in range(6)], -1)[None].float()
    expected = similarity.residual_and_jacobian(moving.double(), jacobian.double())
    for mixed, double in zip(similarity.residual_and_jacobian(moving, jacobian), expected):
        torch.testing.assert_close(mixed.double(), double, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("partly_valid", [False, True])
def test_a_batch_is_its_parts(name: str, partly_valid: bool) -> None:
    moving, jacobian = blobs(1, 3), torch.stack([blobs(10 + k, 3) for k in range(6)], dim=-1)
    similarity = Robust(made(name, blobs(0), a_mask(), a_valid(3) if partly_valid else None), "cauchy")
    whole = similarity.residual_and_jacobian(moving, jacobian)
    for index in (torch.tensor([1]), torch.tensor([2, 0])):
        part = similarity.of(index)
        for got, expected in zip(part.residual_and_jacobian(moving[index], jacobian[index]), whole):
            torch.testing.assert_close(got, expected[index])
        torch.testing.assert_close(part.score(moving[index]), similarity.score(moving)[index])


@pytest.mark.parametrize("name", MAKERS)
def test_a_second_region_takes_the_place_of_the_first(name: str) -> None:
    first = made(name, blobs(0), a_mask(), a_valid(3))
    before = first.score(blobs(1, 3))
    second = first.over(a_valid(2))
    torch.testing.assert_close(second.score(blobs(1, 2)), made(name, blobs(0), a_mask(), a_valid(2)).score(blobs(1, 2)))
    torch.testing.assert_close(first.score(blobs(1, 3)), before)
    with pytest.raises(AssertionError, match="`of` was forgotten"):
        second.residual(blobs(1, 1))


def test_the_fixed_image_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, calls = GradientNCC(blobs(0), a_mask(), window=gaussian_kernel(1.0)), []
    worked_out = GlobalNCC._seen_over
    monkeypatch.setattr(GlobalNCC, "_seen_over", lambda self, weight: calls.append(len(weight)) or worked_out(self, weight))
    held = similarity.over(a_valid(3))
    for _ in range(3):
        held.of(torch.tensor([1, 2])).residual(blobs(1, 2))
    assert calls == [3]
    monkeypatch.setattr("SphericalRegLib.similarity.ncc.PIXELS_AT_ONCE", 2 * ROWS * COLUMNS)
    torch.testing.assert_close(similarity.over(a_valid(3)).score(blobs(1, 3)), held.score(blobs(1, 3)))
    assert calls == [3, 2, 1]


def test_robust_losses_bound_the_influence_of_an_outlier() -> None:
    fixed = blobs(0)
    moving = fixed.clone() + 0.02 * blobs(1)
    moving[8:10, 8:10] += 8 * fixed.std()
    plain = GlobalNCC(fixed).residual(moving[None])
    for loss in LOSSES:
        robust = Robust(GlobalNCC(fixed), loss).residual(moving[None])
        share_plain = plain.reshape(ROWS, COLUMNS)[8:10, 8:10].square().sum() / plain.square().sum()
        share = robust.reshape(ROWS, COLUMNS)[8:10, 8:10].square().sum() / robust.square().sum()
        assert share < share_plain
    assert Robust(GlobalNCC(fixed)).score(moving[None]) == GlobalNCC(fixed).score(moving[None])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_robust_cost_is_below_the_plain_one_and_its_score_is_the_plain_one(loss: str) -> None:
    plain = GlobalNCC(blobs(0), a_mask())
    robust, moving = Robust(plain, loss), blobs(1, 3)
    assert bool((robust.residual(moving).square().sum(1) < plain.residual(moving).square().sum(1)).all())
    torch.testing.assert_close(robust.score(moving), plain.score(moving))


def test_mad_scale_is_the_standard_deviation_of_normal_noise_and_skips_masked_entries() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 2.5, (1, 20001)))
    assert mad_scale(noise).item() == pytest.approx(2.5, rel=0.03)
    assert mad_scale(torch.cat([noise, torch.zeros_like(noise)], dim=1)).item() == pytest.approx(mad_scale(noise).item())
    assert mad_scale(torch.zeros(2, 5)).tolist() == [[1.0], [1.0]]


def test_stack_weights_costs_and_scores() -> None:
    fixed, mask, moving = blobs(0), a_mask(), blobs(1, 2)
    a, b = GlobalNCC(fixed, mask), GradientNCC(fixed, mask)
    both = Stacked([a, b], [1.0, 3.0])
    torch.testing.assert_close(both.score(moving), 0.25 * a.score(moving) + 0.75 * b.score(moving))
    assert both.residual(moving).shape[1] == a.residual(moving).shape[1] + b.residual(moving).shape[1]


@pytest.mark.parametrize("boundary, mode", [("zero", "constant"), ("replicate", "nearest")])
@pytest.mark.parametrize("shape", [(20, 26), (64, 33), (2, 3, 70, 97)])
@pytest.mark.parametrize("sigma", [1.3, 12.0])
def test_separable_filter_against_scipy(boundary: str, mode: str, shape: tuple[int, ...], sigma: float) -> None:
    """Images of one block and of several, with kernels that reach into the next one and beyond it."""
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    ours = separable_filter(image, gaussian_kernel(sigma), gaussian_derivative_kernel(1.3), boundary)
    down = ndimage.correlate1d(image.numpy(), gaussian_kernel(sigma), axis=-2, mode=mode)
    expected = ndimage.correlate1d(down, gaussian_derivative_kernel(1.3), axis=-1, mode=mode)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
    with pytest.raises(ValueError, match="boundary"):
        separable_filter(image, box_kernel(3), box_kernel(3), "wrap")


def test_erode_and_dilate_against_scipy() -> None:
    mask = torch.from_numpy(np.random.default_rng(0).random((ROWS, COLUMNS)) > 0.1).double()
    square = np.ones((5, 5))
    np.testing.assert_array_equal(dilate(1 - mask, 2).numpy(), ndimage.binary_dilation(1 - mask.numpy(), square))
    np.testing.assert_array_equal(erode(mask, 2).numpy(), ndimage.binary_erosion(mask.numpy(), square, border_value=1))


def test_unusable_input_is_named() -> None:
    fixed = blobs(0)
    with pytest.raises(InputError, match="mask"):
        GlobalNCC(fixed, torch.ones(3, 3))
    with pytest.raises(InputError, match="empty"):
        GlobalNCC(fixed, torch.zeros_like(fixed))
    with pytest.raises(InputError, match="finite"):
        GlobalNCC(torch.full_like(fixed, math.nan))
    with pytest.raises(InputError, match="rows, columns"):
        GlobalNCC(fixed[None])
    with pytest.raises(InputError, match="narrower"):
        GradientNCC(fixed, torch.arange(COLUMNS).expand(ROWS, -1) < 3)
    with pytest.raises(InputError, match="huber, cauchy, tukey"):
        Robust(GlobalNCC(fixed), "l1")
    with pytest.raises(InputError, match="weight"):
        Stacked([GlobalNCC(fixed)], [0.0])
    with pytest.raises(InputError, match="floor"):
        LocalNCC(fixed, floor=0.0)


def test_the_first_forward_derivative_does_not_warn_of_what_torch_deprecates() -> None:
    code = (
        "import warnings, torch; warnings.simplefilter('error'); from SphericalRegLib.similarity.forward_mode import along_columns; "
        "along_columns(lambda x: x.flatten(1) ** 2, torch.ones(1, 2, 2), torch.ones(1, 2, 2, 6))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", MAKERS)
def test_a_score_over_next_to_nothing_counts_little(name: str) -> None:
    """Few pixels are alike by chance: the best of many unrelated images over them must not be the best match."""
    fixed = blobs(0)
    valid = torch.zeros(1, ROWS, COLUMNS, dtype=torch.bool)
    valid[:, 4:12, 6:14] = True
    score = made(name, fixed, None, valid).score(fixed[None]).item()
    assert 0 < score < 0.7, "of the very same image"
    enough = valid.clone()
    enough[:, :14] = True
    assert made(name, fixed, None, enough).score(fixed[None]).item() == pytest.approx(1.0, abs=1e-9)


def test_unrelated_images_over_few_pixels_score_low() -> None:
    valid = torch.zeros(64, ROWS, COLUMNS, dtype=torch.bool)
    valid[:, 4:9, 6:11] = True
    scores = GlobalNCC(blobs(0)).over(valid).score(blobs(1, 64))
    assert scores.max().item() < 0.3
