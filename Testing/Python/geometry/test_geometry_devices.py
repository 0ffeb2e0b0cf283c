"""Tensors stay on their device: run on fake CUDA tensors, which need no GPU and refuse to be mixed with tensors of the CPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from SphericalRegLib.geometry import distances, se3
from SphericalRegLib.geometry.camera import Camera

CAMERA = Camera(1000.0, (1.0, 1.0), (10, 10), (5.0, 5.0))

FUNCTIONS = {
    "so3_log": lambda xi, pose, centre: se3.so3_log(se3.so3_exp(xi[:, :3])),
    "jacobian": lambda xi, pose, centre: se3.so3_left_jacobian_inverse(xi[:, :3]) @ se3.so3_right_jacobian(xi[:, :3]),
    "se3_log": lambda xi, pose, centre: se3.se3_log(pose),
    "retract": lambda xi, pose, centre: se3.retract(pose, xi, centre),
    "local": lambda xi, pose, centre: se3.local(pose, pose, centre),
    "invert": lambda xi, pose, centre: se3.invert(pose),
    "transform_points": lambda xi, pose, centre: se3.transform_points(pose, centre.double()),
    "orthonormalise": lambda xi, pose, centre: se3.orthonormalise(pose),
    "rotation_angle": lambda xi, pose, centre: distances.rotation_angle(pose, pose),
    "double_geodesic": lambda xi, pose, centre: distances.double_geodesic(pose, pose, centre, 500.0),
    "so4_pose_distance": lambda xi, pose, centre: distances.so4_pose_distance(pose, pose, centre, 500.0),
    "project": lambda xi, pose, centre: CAMERA.project(xi[:, :3]),
    "back_project": lambda xi, pose, centre: CAMERA.back_project(xi[:, :2]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_on_the_inputs_device(name):
    with FakeTensorMode():
        xi = torch.zeros(3, 6, dtype=torch.float64, device="cuda")
        result = FUNCTIONS[name](xi, se3.se3_exp(xi), torch.zeros(3, device="cuda"))
    assert result.device.type == "cuda"


def test_mixed_devices_are_noticed_by_this_check():
    with FakeTensorMode(), pytest.raises(RuntimeError):
        se3.transform_points(torch.eye(4, device="cuda"), torch.zeros(3))
