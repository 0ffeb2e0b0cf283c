"""Whole registrations by name: ours, parts of it, and the recipes of others on our renderer; what `benchmark methods` compares.

Each takes a CT, the X-rays and one start, and gives a pose. None sees the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from SphericalRegLib.imaging.case import View
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.optimization.first_order import FirstOrderOptions, first_order
from SphericalRegLib.progress import Progress, ProgressCallback
from SphericalRegLib.registration.learned import spherical_terms
from SphericalRegLib.registration.options import LearnedStart, RegistrationOptions, Stage
from SphericalRegLib.registration.pipeline import register
from SphericalRegLib.registration.problem import MultiViewProblem, ViewTerm
from SphericalRegLib.registration.region import at_resolution
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.similarity.named import similarity
from SphericalRegLib.similarity.stacked import Stacked

ALONE = RegistrationOptions(multi_start=None, second_start=None)
"""The intensity stages from the start alone."""


@dataclass(frozen=True)
class Setting:
    """What a registration works on: the CT made ready, the X-rays, a model of the CT (on the CT's device) where there is one, a seed."""

    pyramid: VolumePyramid
    views: Sequence[View]
    model: Model | None = None
    seed: int = 0


@dataclass(frozen=True)
class Registration:
    """`register` with these options, with or without the setting's model."""

    options: RegistrationOptions
    needs_model: bool = False

    def __call__(self, setting: Setting, start: np.ndarray, progress: ProgressCallback) -> np.ndarray:
        """camera_from_world (4, 4) from a start (4, 4). Raises InputError where the start does not show the CT in the X-ray."""
        model = setting.model if self.needs_model else None
        device = setting.pyramid.device
        found = register(
            setting.pyramid, setting.views, start, model=model, options=self.options, device=device, seed=setting.seed, progress=progress
        )
        return found.camera_from_world


@dataclass(frozen=True)
class AdamOnIntensities:
    """Adam on the multi-scale correlation (NCC of the image and of its patches, weighed alike), coarse to fine, from the start alone.

    The recipe of DiffPose (Gopalakrishnan et al., CVPR 2024) and xvr, on our renderer and on whole images, with a step that falls exponentially.

    Attributes:
        levels: (longer side in pixels, iterations, first step in units of 0.01 rad and 1 mm), coarse to fine.
        decay: of the step, per iteration.
    """

    levels: tuple[tuple[int, int, float], ...] = ((64, 150, 1.0), (128, 100, 0.5), (256, 50, 0.25))
    decay: float = 0.99
    needs_model: bool = False

    def __call__(self, setting: Setting, start: np.ndarray, progress: ProgressCallback) -> np.ndarray:
        """See `Registration`; a start that does not show the CT stays where it is."""
        pose = torch.from_numpy(np.array(start, dtype=np.float64))[None].to(setting.pyramid.device)
        for pixels, iterations, rate in self.levels:
            options = FirstOrderOptions("adam", iterations, rate, decay=self.decay)
            problem = MultiViewProblem([_multi_scale(setting.pyramid, view, pixels) for view in setting.views])
            pose = first_order(problem.holding_valid_at(pose), pose, setting.pyramid.centre, options, _staged(progress, f"Adam {pixels} px")).pose
        return pose[0].cpu().numpy()


@dataclass(frozen=True)
class AdamOnSpheres:
    """Adam in Levenberg-Marquardt's place on the spherical similarity, from the start alone; then the intensity stages as they are.

    Attributes:
        iterations: of Adam.
        decay: of its step, which begins with 0.01 rad and 1 mm, per iteration.
        intensity: what follows.
    """

    iterations: int = 100
    decay: float = 0.98
    intensity: RegistrationOptions = field(default_factory=lambda: ALONE)
    needs_model: bool = True

    def __call__(self, setting: Setting, start: np.ndarray, progress: ProgressCallback) -> np.ndarray:
        """See `Registration`. Raises InputError where Adam leads out of the image."""
        assert setting.model is not None
        pose = torch.from_numpy(np.array(start, dtype=np.float64))[None].to(setting.pyramid.device)
        problem = MultiViewProblem(spherical_terms(setting.pyramid, setting.views, setting.model))
        options = FirstOrderOptions("adam", self.iterations, decay=self.decay)
        pose = first_order(problem, pose, setting.pyramid.centre, options, _staged(progress, "Adam, spherical")).pose
        return Registration(self.intensity)(setting, pose[0].cpu().numpy(), progress)


Method = Registration | AdamOnIntensities | AdamOnSpheres

_NCC = (Stage(80, "ncc", 15), Stage(128, "ncc", 12), Stage(256, "ncc", 12))

METHODS: dict[str, Method] = {
    "full": Registration(RegistrationOptions(), needs_model=True),
    "no model": Registration(RegistrationOptions()),
    "spherical LM": Registration(replace(ALONE, learned=LearnedStart(draws=1, second_opinion=0, refined=1, iterations=20, keep=2)), needs_model=True),
    "spherical Adam": AdamOnSpheres(),
    "intensity LM": Registration(ALONE),
    "NCC LM": Registration(replace(ALONE, stages=_NCC)),
    "mNCC Adam": AdamOnIntensities(),
}
"""What is compared. "full" and "no model": as a user gets them, the search about the start included. "spherical LM": Levenberg-Marquardt on the
spherical similarity from the start alone, then on intensities; "spherical Adam": Adam in the first one's place; "intensity LM": the second alone.
"NCC LM": the textbook's, Levenberg-Marquardt on NCC, coarse to fine; "mNCC Adam": see `AdamOnIntensities`."""


def _multi_scale(pyramid: VolumePyramid, view: View, pixels: int) -> ViewTerm:
    radiograph = at_resolution(view.radiograph, pixels)
    image, mask = radiograph.tensor(pyramid.device)
    both = Stacked([similarity("ncc", image, mask), similarity("local_ncc", image, mask)])
    spacing = 0.75 * max(radiograph.camera.pixel_spacing_mm)  # a pixel's size at the CT
    relation = torch.as_tensor(view.camera_from_camera1, dtype=torch.float64, device=pyramid.device)
    return ViewTerm(pyramid.projector(radiograph.camera, spacing), both, relation)


def _staged(progress: ProgressCallback, stage: str) -> ProgressCallback:
    def report(step: Progress) -> None:
        progress(replace(step, stage=stage))

    return report
