"""On a GPU: similarities, registrations and a training as on the CPU.

Skipped where there is no GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import registration_phantom as phantom
import trainer_phantom as small
from test_pipeline import FAR, QUICK
from test_proposals import QUICK as WITH_MODEL
from test_proposals import make_model

from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.imaging.case import View
from SphericalRegLib.models.checkpoint import load_model
from SphericalRegLib.optimization.levenberg_marquardt import levenberg_marquardt
from SphericalRegLib.optimization.problem import linearize
from SphericalRegLib.progress import Cancelled, Progress
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.problem import MultiViewProblem, ViewTerm
from SphericalRegLib.similarity.named import SIMILARITIES, similarity
from SphericalRegLib.training.session import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

TRUE, CENTRE = phantom.true_pose(), torch.as_tensor(phantom.ct().centre_ras_mm)
STEPS = torch.tensor([[0.02, -0.01, 0.02, 2.0, -1.0, 4.0], [-0.03, 0.02, 0.01, -3.0, 2.0, -6.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def pyramids():
    return {device: prepare(phantom.ct(), device=device) for device in ("cpu", "cuda")}


def problem(pyramid, name: str) -> MultiViewProblem:
    fixed, mask = phantom.radiograph(TRUE).tensor(pyramid.device)
    term = ViewTerm(pyramid.projector(phantom.CAMERA, 2.0), similarity(name, fixed, mask), torch.eye(4, dtype=torch.float64, device=pyramid.device))
    return MultiViewProblem([term])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_agree_in_value_gradient_and_minimum(pyramids, name: str) -> None:
    poses = retract(TRUE, STEPS, CENTRE)
    found = {}
    for device, pyramid in pyramids.items():
        starts = poses.to(device)
        here = problem(pyramid, name).holding_valid_at(starts)
        system = linearize(here, starts, torch.arange(2, device=device))
        ends = levenberg_marquardt(here, starts, pyramid.centre)
        assert ends.pose.device.type == device
        found[device] = [value.cpu() for value in (here.score(starts), system.gradient, system.normal_matrix, ends.pose)]
    for cpu, gpu in zip(found["cpu"][:3], found["cuda"][:3]):
        assert float((cpu - gpu).norm() / cpu.norm()) < 5e-3  # samples on a voxel's border round to either side
    for cpu, gpu in zip(found["cpu"][3], found["cuda"][3]):
        assert phantom.target_error(gpu.numpy(), cpu) < 0.2


@pytest.mark.parametrize("way", ["start", "model", "two views"])
def test_a_registration_ends_where_the_cpu_ends(pyramids, way: str) -> None:
    side = phantom.true_pose("left")
    views = [View(phantom.radiograph(TRUE), np.eye(4)), View(phantom.radiograph(side, seed=1), (side @ torch.linalg.inv(TRUE)).numpy())]

    def found(device: str) -> np.ndarray:
        if way == "model":
            return register(pyramids[device], views[0].radiograph, model=make_model(), options=WITH_MODEL, device=device).camera_from_world
        xrays = views if way == "two views" else views[0].radiograph
        return register(pyramids[device], xrays, FAR.numpy(), options=QUICK, device=device).camera_from_world

    gpu = found("cuda")
    assert phantom.target_error(gpu, TRUE) < 1.5
    assert phantom.target_error(gpu, torch.as_tensor(found("cpu"))) < 0.3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_runs_stops_goes_on_and_serves_a_cpu(tmp_path: Path, precision: str) -> None:
    options = replace(small.OPTIONS, precision=precision, validation=small.WATCHED)

    def stop(step: Progress) -> None:
        if step.stage == "training" and step.done == 4:
            raise Cancelled

    volumes, out = [phantom.volume()], tmp_path / "m.safetensors"
    with pytest.raises(Cancelled):
        train(volumes, small.CAMERA, options, out, device="cuda", progress=stop)
    model = train(volumes, small.CAMERA, options, out, device="cuda", resume=True)
    assert next(model.encoder.parameters()).is_cuda and torch.cuda.get_device_name() == model.card["device"]
    here = load_model(out)
    assert not next(here.encoder.parameters()).is_cuda
    assert all(bool(value.isfinite().all()) for value in small.weights_of(here).values())
