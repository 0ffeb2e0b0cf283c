"""A registration of the scene where the GPU's memory is not enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.mrml import session
from SphericalRegLib.registration.options import RegistrationOptions, Stage
from SphericalRegLib.registration.pipeline import prepare
from SphericalRegLib.rendering.projector import Projector


def test_a_ct_that_was_prepared_on_the_gpu_is_prepared_anew_on_the_cpu(monkeypatch: pytest.MonkeyPatch, ct: Volume, camera: Camera) -> None:
    pose = named_view("ap", camera, torch.from_numpy(ct.centre_ras_mm))
    image = Projector(attenuation(ct), camera).project(pose[None])[0].numpy()
    radiograph = Radiograph(image, np.ones(image.shape, dtype=bool), camera)
    options = RegistrationOptions(stages=(Stage(48, iterations=1),), multi_start=None, second_start=None)
    pyramid = prepare(ct, options)
    pyramid.device = torch.device("cuda:0")  # no GPU is needed for saying that it lies on one
    register = session.register

    def on_a_full_gpu(ct: Any, *args: Any, **keywords: Any) -> Any:
        if ct.device.type == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return register(ct, *args, **keywords)

    monkeypatch.setattr(session, "register", on_a_full_gpu)
    outcome = session.run(session.Request(pyramid, radiograph, pose.numpy(), options, "cuda:0"))
    assert outcome.pyramid.device.type == "cpu" and outcome.pyramid.attenuation is pyramid.attenuation
    assert outcome.result.options["device"] == "cpu" and session.CPU_INSTEAD in outcome.result.notes
