"""The losses against finite differences on an analytic renderer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_scene import CENTRE, BlobProjector, poses

from SphericalRegLib.geometry.metric import Places
from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.similarity.spherical import embedding_residual
from SphericalRegLib.training.losses import GRADIENT_MATCHING, REFINEMENT_DAMPING, Batch, LossWeights, gradient_loss, refinement_loss, spherical_loss
from SphericalRegLib.training.overrides import layer_norms_with_all_derivatives, overridden
from SphericalRegLib.training.paired import PairedProblem

GRADIENT = LossWeights(anchor=0.0, gradient=1.0)
METRIC = GRADIENT.metric
PLACES = Places(METRIC, poses(1)[0], CENTRE)
RENDERER = BlobProjector()
COUNT = 3


def make_encoder(kind: str = "so4") -> SphericalEncoder:
    torch.manual_seed(3)
    config = EncoderConfig(TrunkConfig(image_size=32, width=32, blocks=1), elements=3, embedding=kind)
    return SphericalEncoder(config).double()


@pytest.fixture(scope="module")
def batch():
    truth = poses(COUNT)
    step = 0.5 * torch.randn(COUNT, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = retract(truth, step * torch.tensor([0.2] * 3 + [15.0] * 3).double(), CENTRE)
    xray = (1.7 * RENDERER.project(truth) + 0.2)[:, None]
    mask = torch.ones_like(xray)
    mask[..., :3] = 0
    return xray, mask, start, truth


def squared_similarity(encoder, xray, mask, pose) -> torch.Tensor:
    moving = encoder(RENDERER.project(pose)[:, None], mask)
    return embedding_residual(encoder(xray, mask), moving, encoder.config.embedding).square().sum(-1)


def along(function, pose: torch.Tensor, h: float = 1e-4) -> torch.Tensor:
    """Central differences (B, 6) of a function (B,) of the poses along the tangent."""
    columns = []
    for k in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[k] = h * (1.0 if k < 3 else 100.0)
        ends = [function(retract(pose, sign * step.expand(len(pose), 6), CENTRE)) for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step[k]))
    return torch.stack(columns, dim=1)


def loss_of(encoder, batch, weights=GRADIENT):
    xray, mask, start, truth = batch
    drr, jacobian = RENDERER.project_with_jacobian(start)
    everything = Batch(xray, mask, drr, mask, truth, start, PLACES)
    loss, figures = spherical_loss(encoder(xray, mask), encoder(drr[:, None], mask), everything, encoder.config.embedding, weights)
    if weights.gradient:
        error, more = gradient_loss(encoder, everything, jacobian, weights)
        loss, figures = loss + weights.gradient * error, {**figures, **more}
    return loss, figures


@pytest.mark.parametrize("kind", ["so4", "cosine", "euclidean"])
def test_gradient_matching_against_differences(batch, kind) -> None:
    xray, mask, start, truth = batch
    encoder = make_encoder(kind)
    with torch.no_grad():
        g = METRIC.gradient(start, along(lambda pose: squared_similarity(encoder, xray, mask, pose), start))
        h = METRIC.gradient(start, along(lambda pose: METRIC.log(pose, truth, CENTRE).square().sum(-1), start))
    expected = ((g - h).square().sum(-1) / (h.norm(dim=-1) + GRADIENT.soft).square()).clamp_max(50.0).mean()
    loss, figures = loss_of(encoder, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert figures["cosine"] == pytest.approx(float(torch.nn.functional.cosine_similarity(g, h, dim=-1).mean()), abs=1e-4)


def directional(function, parameters: list[torch.Tensor], loss: torch.Tensor, h: float = 1e-5) -> tuple[float, float]:
    """Derivative of a loss along a random change of the weights: by backward, and by central differences."""
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    torch.manual_seed(0)
    ways = [torch.randn_like(p) for p in parameters]
    exact = sum(float((g * w).sum()) for g, w in zip(grads, ways) if g is not None)
    values = []
    for sign in (1, -1, -1):  # there, back, and beyond
        with torch.no_grad():
            for p, w in zip(parameters, ways):
                p.add_(sign * h * w)
        values.append(float(function()))
    with torch.no_grad():
        for p, w in zip(parameters, ways):
            p.add_(h * w)
    return exact, (values[0] - values[2]) / (2 * h)


@pytest.mark.parametrize("weights", [GRADIENT, LossWeights(), GRADIENT_MATCHING])
def test_the_weights_gradient_against_differences(batch, weights) -> None:
    encoder = make_encoder()
    loss, _ = loss_of(encoder, batch, weights)
    exact, numeric = directional(lambda: loss_of(encoder, batch, weights)[0].detach(), list(encoder.parameters()), loss)
    assert exact == pytest.approx(numeric, rel=1e-3, abs=1e-6)


def test_a_term_of_weight_zero_is_left_out(batch) -> None:
    encoder = make_encoder()
    weights = (0.9, 1.0, 0.4, 0.3)
    whole, *parts = (
        loss_of(encoder, batch, LossWeights(*given))[0].item()
        for given in (weights, *(tuple(w if i == k else 0.0 for i, w in enumerate(weights)) for k in range(4)))
    )
    assert whole == pytest.approx(sum(parts))
    assert "cosine" not in loss_of(encoder, batch, LossWeights())[1]


def test_embeddings_at_the_places_of_their_poses_cost_nothing(batch) -> None:
    """And their similarity is the squared distance of the poses, near the reference."""
    xray, mask, start, truth = batch
    reference = truth[0]
    placed = [METRIC.in_so4(pose, reference, CENTRE)[:, None].expand(-1, 5, -1, -1) for pose in (truth, start)]
    everything = Batch(xray, mask, xray[:, 0], mask, truth, start, Places(METRIC, reference, CENTRE))
    loss, figures = spherical_loss(*placed, everything, "so4", LossWeights())
    assert 0 <= loss.item() < 0.05 and figures["X-ray off"] == pytest.approx(1e-3, abs=1e-4)  # the length is rounded off at zero
    assert figures["ratio"] == pytest.approx(1.0, abs=0.05)
    exact = embedding_residual(*placed).norm(dim=-1)
    torch.testing.assert_close(exact, METRIC.log(truth, start, CENTRE).norm(dim=-1), rtol=0.1, atol=0.0)
    torch.testing.assert_close(exact[0], METRIC.log(truth, start, CENTRE).norm(dim=-1)[0], rtol=0.01, atol=0.0)


def test_poses_have_no_place_on_one_sphere_or_in_flat_space() -> None:
    for kind in ("cosine", "euclidean"):
        assert not LossWeights().fit(kind) and GRADIENT_MATCHING.fit(kind)


def paired(encoder, batch) -> PairedProblem:
    xray, mask, _, _ = batch
    return PairedProblem(encoder, encoder(xray, mask), mask, RENDERER)


def test_channels_last_weights_change_nothing_and_reach_no_group_norm(batch, monkeypatch) -> None:
    # torch 2.11 fails in the forward-mode derivative of a GroupNorm of images that lie channels last
    encoder = make_encoder()
    _, _, start, _ = batch
    with torch.no_grad():
        expected = paired(encoder, batch).residual_and_jacobian(start, torch.arange(COUNT))
        problem = paired(encoder.to(memory_format=torch.channels_last), batch)
        seen = []
        inner = torch.nn.functional.group_norm

        def watched(x, *rest):
            seen.append(x.is_contiguous())
            return inner(x, *rest)

        monkeypatch.setattr(torch.nn.functional, "group_norm", watched)
        found = problem.residual_and_jacobian(start, torch.arange(COUNT))
    assert seen and all(seen)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_each_x_ray_has_its_own_pose(batch) -> None:
    """Residual and Jacobian of the paired problem; motions along the rays drop out of an exact line integral, so differences agree."""
    xray, mask, start, _ = batch
    encoder = make_encoder()
    index = torch.tensor([2, 0])
    with torch.no_grad():
        r, jacobian = paired(encoder, batch).residual_and_jacobian(start[index], index)
        assert r.shape == (2, 18) and jacobian.shape == (2, 18, 6)
        assert torch.allclose(r.square().sum(-1), squared_similarity(encoder, xray, mask, start)[index])
        numeric = along(lambda pose: squared_similarity(encoder, xray[index], mask[index], pose), start[index])
    assert torch.allclose(2 * (jacobian.transpose(1, 2) @ r[..., None])[..., 0], numeric, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2])
def test_refinement_is_that_of_levenberg_marquardt(batch, steps) -> None:
    _, _, start, truth = batch
    encoder = make_encoder()
    near = retract(truth, 0.1 * local(truth, start, CENTRE), CENTRE)
    weights = LossWeights(refinement_steps=steps)
    with torch.no_grad():
        problem = paired(encoder, batch)
        loss = refinement_loss(problem, near, truth, PLACES, weights)
        fixed = REFINEMENT_DAMPING
        options = LMOptions(steps, fixed, min_lambda=fixed, max_lambda=fixed, accept_ratio=0.0, gradient_tolerance=0, cost_tolerance=0)
        after = levenberg_marquardt(problem, near, CENTRE, options).pose
        before = weights.metric.log(near, truth, CENTRE).norm(dim=-1)
        expected = (weights.metric.log(after, truth, CENTRE).norm(dim=-1) / (before + weights.soft)).mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-3)


def test_refinement_gradient_of_one_step_is_exact(batch) -> None:
    _, _, start, truth = batch
    encoder = make_encoder()

    def value() -> torch.Tensor:
        return refinement_loss(paired(encoder, batch), start, truth, PLACES, LossWeights())

    exact, numeric = directional(lambda: value().detach(), list(encoder.parameters()), value(), h=1e-6)
    assert exact == pytest.approx(numeric, rel=1e-3, abs=1e-6)


def test_a_second_step_sees_the_first(batch) -> None:
    """Its gradient goes through the first step's pose too; what it lacks is the renderer's second derivative, a small part near the truth."""
    _, _, start, truth = batch
    encoder = make_encoder()
    near = retract(truth, 0.3 * local(truth, start, CENTRE), CENTRE)

    def value() -> torch.Tensor:
        return refinement_loss(paired(encoder, batch), near, truth, PLACES, replace(LossWeights(), refinement_steps=2))

    exact, numeric = directional(lambda: value().detach(), list(encoder.parameters()), value(), h=1e-6)
    assert exact == pytest.approx(numeric, rel=0.1)


def test_layer_norm_keeps_all_its_derivatives() -> None:
    """Reverse over forward mode through a layer norm, against differences; torch's own loses the part that goes through mean and variance."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.LayerNorm(8)).double()
    x, tangent, way, weight = (torch.randn(2, 3, 8, dtype=torch.float64) for _ in range(4))

    def column(scale: torch.Tensor) -> torch.Tensor:
        return (torch.func.jvp(lambda z: network(z * scale), (x,), (tangent,))[1] * weight).sum()

    plain = network(x)
    with overridden(layer_norms_with_all_derivatives(network)):
        assert torch.allclose(network(x), plain)
        scale = torch.ones_like(x, requires_grad=True)
        (gradient,) = torch.autograd.grad(column(scale), scale)
        with torch.no_grad():
            numeric = (column(scale + 1e-6 * way) - column(scale - 1e-6 * way)) / 2e-6
    assert float((gradient * way).sum()) == pytest.approx(float(numeric), rel=1e-6)
    assert "forward" not in network[0].__dict__
