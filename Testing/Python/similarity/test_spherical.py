"""The derivative that anchored embeddings should have."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.metric import Places, PoseMetric
from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.geometry.so4 import quaternion_exp, quaternion_multiply
from SphericalRegLib.geometry.views import c_arm_view
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.similarity.forward_mode import along_columns
from SphericalRegLib.similarity.spherical import anchored_jacobian, embedding_residual

CENTRE = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
CAMERA = Camera(1000.0, (6.0, 6.0), (64, 64), (31.5, 31.5))
PLACES = Places(PoseMetric(), c_arm_view(0.0, 0.0, CAMERA, CENTRE, 0.75), CENTRE)
ELEMENTS = 5


def poses(count: int, seed: int = 0, turn: float = 0.4, shift: float = 40.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([turn] * 3 + [shift] * 3, dtype=torch.float64)
    return retract(PLACES.reference.expand(count, 4, 4), torch.randn(count, 6, generator=generator, dtype=torch.float64) * scale, CENTRE)


def elements(pose: Tensor) -> Tensor:
    """(B, K, 2, 4): every element at its pose's place."""
    return PLACES.of(pose)[:, None].expand(-1, ELEMENTS, -1, -1)


def test_it_is_the_derivative_where_embeddings_lie_where_they_should() -> None:
    here, (there,) = poses(7), poses(1, seed=1)
    fixed = elements(there[None])
    found = anchored_jacobian(fixed, PLACES, here)
    assert found.shape == (7, 6 * ELEMENTS, 6)
    for column in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[column] = 1e-5 if column < 3 else 1e-3
        ahead, behind = (embedding_residual(fixed, elements(retract(here, sign * step.expand(7, 6), CENTRE))) for sign in (1, -1))
        torch.testing.assert_close(found[..., column], (ahead - behind) / (2 * step[column]), atol=1e-8, rtol=1e-6)


def test_single_precision_embeddings_are_compared_in_the_poses_precision() -> None:
    here, there = poses(2), poses(1, seed=1)
    found = anchored_jacobian(elements(there).float(), PLACES, here)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, anchored_jacobian(elements(there), PLACES, here), atol=1e-6, rtol=1e-5)


def test_it_leads_home_over_ripples_that_the_embeddings_own_derivative_is_lost_in() -> None:
    """Embeddings at their places but for ripples, as a network's: 5 deg high, and gone within a few millimetres."""
    (truth,) = poses(1, seed=20)
    waves = 0.5 * torch.randn(ELEMENTS, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def embedded(pose: Tensor) -> Tensor:
        way = local(PLACES.reference.expand_as(pose), pose, CENTRE) * torch.tensor([100.0] * 3 + [1.0] * 3, dtype=torch.float64)
        ripple = math.radians(5.0) * torch.sin(torch.einsum("bj,kij->bki", way, waves)).unflatten(-1, (2, 3))
        return quaternion_multiply(elements(pose), quaternion_exp(ripple / 2))

    fixed = elements(truth[None])

    def with_anchors(pose: Tensor) -> tuple[Tensor, Tensor]:
        return embedding_residual(fixed, embedded(pose)), anchored_jacobian(fixed, PLACES, pose)

    def with_its_own(pose: Tensor) -> tuple[Tensor, Tensor]:
        still, every = pose.new_zeros(len(pose), 6), torch.eye(6, dtype=pose.dtype).expand(len(pose), 6, 6)
        return along_columns(lambda delta: embedding_residual(fixed, embedded(retract(pose, delta, CENTRE))), still, every)

    ends = [levenberg_marquardt(problem, poses(6, seed=4), CENTRE, LMOptions(15)).pose for problem in (with_anchors, with_its_own)]
    anchored, lost = (PLACES.metric.log(end, truth, CENTRE).norm(dim=-1) for end in ends)
    assert bool((anchored < math.radians(6.0)).all()) and bool((anchored < 0.5 * lost).all())
