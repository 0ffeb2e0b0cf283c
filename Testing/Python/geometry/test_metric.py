"""The metric for learning: against the double geodesic where depth weighs nothing special, and its gradient against differences."""

from __future__ import annotations

import torch

from SphericalRegLib.geometry.distances import double_geodesic
from SphericalRegLib.geometry.metric import PoseMetric
from SphericalRegLib.geometry.se3 import make_transform, retract, so3_exp

CENTRE = torch.tensor([10.0, -5.0, 20.0], dtype=torch.float64)


def poses(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    turn = so3_exp(torch.randn(count, 3, dtype=torch.float64, generator=generator))
    shift = 50 * torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return make_transform(turn, shift - (turn @ CENTRE))


def test_with_one_length_it_is_the_double_geodesic() -> None:
    a, b = poses(6)[:3], poses(6)[3:]
    length = PoseMetric(120.0, 120.0).log(a, b, CENTRE).norm(dim=-1)
    torch.testing.assert_close(120.0 * length, double_geodesic(a, b, CENTRE, 120.0))


def test_a_shift_along_the_ray_weighs_less() -> None:
    a = poses(2)
    for axis, length in enumerate((100.0, 100.0, 400.0)):
        b = a.clone()
        b[:, axis, 3] += 7.0
        way = PoseMetric(100.0, 400.0).log(a, b, CENTRE)
        expected = torch.zeros(2, 6, dtype=torch.float64)
        expected[:, 3 + axis] = 7.0 / length
        torch.testing.assert_close(way, expected, rtol=0, atol=1e-12)


def test_the_gradient_of_the_squared_distance_points_back_along_the_way() -> None:
    a, b = poses(6)[:3], poses(6)[3:]
    metric = PoseMetric()
    delta = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    metric.log(retract(a, delta, CENTRE), b, CENTRE).square().sum().backward()
    assert delta.grad is not None
    way = metric.log(a, b, CENTRE)
    torch.testing.assert_close(metric.gradient(a, delta.grad), -2 * way, rtol=1e-6, atol=1e-8)


def test_places_move_as_their_derivative_says() -> None:
    generator = torch.Generator().manual_seed(5)
    centre = torch.tensor([5.0, -7.0, 11.0], dtype=torch.float64)
    metric, still = PoseMetric(), torch.eye(4, dtype=torch.float64)
    scale = torch.tensor([0.8] * 3 + [90.0] * 3, dtype=torch.float64)
    poses = retract(still.expand(9, 4, 4), torch.cat((torch.zeros(1, 6), torch.randn(8, 6, generator=generator))).double() * scale, centre)
    place, along = metric.in_so4_and_tangent(poses, still, centre)
    torch.testing.assert_close(place, metric.in_so4(poses, still, centre), atol=1e-14, rtol=0)
    assert along.shape == (9, 2, 4, 6)
    for column in range(6):
        step = torch.zeros(9, 6, dtype=torch.float64)
        step[:, column] = 1e-6 if column < 3 else 1e-4
        ahead, behind = (metric.in_so4(retract(poses, sign * step, centre), still, centre) for sign in (1, -1))
        torch.testing.assert_close(along[..., column], (ahead - behind) / (2 * step[0, column]), atol=1e-9, rtol=1e-7)
