"""Whole registrations by name: ours, parts of it, and what others do, on our renderer; what `benchmark methods` compares.

Each takes a CT, the X-rays and one start, where it needs one, and gives a pose. None sees the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import View
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.optimization.first_order import FirstOrderOptions, first_order
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.optimization.prior import PosePrior
from SphericalRegLib.progress import Progress, ProgressCallback
from SphericalRegLib.registration.learned import spherical_terms
from SphericalRegLib.registration.options import LearnedStart, RegistrationOptions
from SphericalRegLib.registration.pipeline import register
from SphericalRegLib.registration.problem import MultiViewProblem, ViewTerm
from SphericalRegLib.registration.region import at_resolution
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.similarity.named import similarity
from SphericalRegLib.similarity.spherical import NOISE_RAD
from SphericalRegLib.similarity.stacked import Stacked

Search = LMOptions | FirstOrderOptions
"""An optimiser with its settings."""

ALONE = RegistrationOptions(multi_start=None)
"""The intensity stages from one pose."""


@dataclass(frozen=True)
class Setting:
    """What a registration works on.

    Attributes:
        pyramid: the CT made ready.
        views: the X-rays.
        model: of the CT, on its device, where there is one.
        seed: of the multi-start.
        spread: standard deviations per axis of the starts, deg and mm, where they are known.
    """

    pyramid: VolumePyramid
    views: Sequence[View]
    model: Model | None = None
    seed: int = 0
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class End:
    """Where a registration ended: camera_from_world (4, 4), and what it says against that itself (`RegistrationResult.doubt`), if it can."""

    camera_from_world: np.ndarray
    doubt: str | None = None


@dataclass(frozen=True)
class Registration:
    """`register` with these options, with or without the setting's model."""

    options: RegistrationOptions
    needs_model: bool = False

    @property
    def needs_start(self) -> bool:
        """Whether there is no search that could do without."""
        return self.options.multi_start is None

    def __call__(self, setting: Setting, start: np.ndarray | None, progress: ProgressCallback) -> End:
        """From a start camera_from_world (4, 4), or with no initial pose. Raises InputError where the start does not show the CT in the X-ray."""
        pyramid, model = setting.pyramid, setting.model if self.needs_model else None
        device, seed = pyramid.device, setting.seed
        found = register(pyramid, setting.views, start, model=model, options=self.options, device=device, seed=seed, progress=progress)
        return End(found.camera_from_world, found.doubt)


@dataclass(frozen=True)
class OnSpheres:
    """One search on the spherical similarity from the start alone; then the intensity stages from where it ends.

    With `prior`, the search is held by the spread of the starts (`optimization.prior`), which must be known. The Jacobian is the network's own.
    """

    search: Search
    prior: bool = False
    intensity: RegistrationOptions = field(default_factory=lambda: ALONE)
    needs_model: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True

    def __call__(self, setting: Setting, start: np.ndarray | None, progress: ProgressCallback) -> End:
        """See `Registration`. Raises InputError without a start, a model or a prior's spread, or where the search leads out of the image."""
        if setting.model is None:
            raise InputError("The spherical similarity needs a model of the CT, but there is none.")
        problem = MultiViewProblem(spherical_terms(setting.pyramid, setting.views, setting.model))
        begin = _batch(start, setting.pyramid)
        pose = _searched(self.search, self._held(problem, begin, setting.spread), begin, _staged(progress, "spherical"))
        return Registration(self.intensity)(setting, pose[0].cpu().numpy(), progress)

    def _held(self, problem: MultiViewProblem, start: Tensor, spread: tuple[float, float] | None) -> MultiViewProblem | PosePrior:
        if not self.prior:
            return problem
        if spread is None:
            raise InputError("A prior of the start needs its spread, but that is not known.")
        return PosePrior(problem, start, problem.centre, math.radians(spread[0]), spread[1], NOISE_RAD)


@dataclass(frozen=True)
class OnIntensities:
    """Searches on whole images, coarse to fine, each from where the last one ended.

    Attributes:
        similarities: names of `similarity.named` with their weights.
        levels: longer side in pixels, and the search.
    """

    similarities: tuple[tuple[str, float], ...]
    levels: tuple[tuple[int, Search], ...]
    needs_model: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True

    def __call__(self, setting: Setting, start: np.ndarray | None, progress: ProgressCallback) -> End:
        """See `Registration`. Raises InputError without a start."""
        pose = _batch(start, setting.pyramid)
        for pixels, search in self.levels:
            problem = MultiViewProblem([self._term(setting.pyramid, view, pixels) for view in setting.views])
            pose = _searched(search, problem.holding_valid_at(pose), pose, _staged(progress, f"{pixels} px"))
        return End(pose[0].cpu().numpy())

    def _term(self, pyramid: VolumePyramid, view: View, pixels: int) -> ViewTerm:
        radiograph = at_resolution(view.radiograph, pixels)
        image, mask = radiograph.tensor(pyramid.device)
        parts = Stacked([similarity(name, image, mask) for name, _ in self.similarities], [weight for _, weight in self.similarities])
        spacing = 0.75 * max(radiograph.camera.pixel_spacing_mm)  # a pixel's size at the CT
        relation = torch.as_tensor(view.camera_from_camera1, dtype=torch.float64, device=pyramid.device)
        return ViewTerm(pyramid.projector(radiograph.camera, spacing), parts, relation)


Method = Registration | OnSpheres | OnIntensities


def adam(iterations: int, first: float, last: float) -> FirstOrderOptions:
    """Adam whose step falls exponentially from `first` to `last`, in units of 0.01 rad and 1 mm."""
    return FirstOrderOptions("adam", iterations, first, decay=(last / first) ** (1.0 / iterations))


ON_SPHERES = LMOptions(30, step_tolerance_rad=1e-4, step_tolerance_mm=1e-2, cost_tolerance=1e-4)

ONE_SEARCH = LearnedStart(draws=1, second_opinion=0, refined=1, iterations=30, keep=1)
"""A model's own search from one pose; its regressor is not asked."""

METHODS: dict[str, Method] = {
    "full": Registration(RegistrationOptions(), needs_model=True),
    "no model": Registration(RegistrationOptions()),
    "anchored LM": Registration(replace(ALONE, learned=ONE_SEARCH), needs_model=True),
    "spherical LM": OnSpheres(ON_SPHERES),
    "spherical MAP": OnSpheres(ON_SPHERES, prior=True),
    "spherical Adam": OnSpheres(adam(200, 2.0, 0.02)),
    "intensity LM": Registration(ALONE),
    "NCC LM": OnIntensities((("ncc", 1.0),), ((64, LMOptions(50)), (128, LMOptions(30)), (256, LMOptions(20)))),
    "mNCC Adam": OnIntensities(
        (("ncc", 0.25), ("local_ncc", 0.25), ("gradient_ncc", 0.5)),
        ((64, adam(200, 2.0, 0.2)), (128, adam(120, 0.5, 0.05)), (256, adam(80, 0.25, 0.0025))),
    ),
}
"""What is compared. "full" and "no model": as a user gets them, a search about the start included. The others begin at the start alone. "anchored
LM": the model's search as registrations make it, with the Jacobian that training asked for, its end at its best depth, then Levenberg-Marquardt on
intensities. "spherical LM" and "spherical Adam": one optimiser or the other on the spherical similarity, with the network's Jacobian, then on
intensities; "spherical MAP": spherical LM with the spread of the starts as a prior, the only one that is told it; "intensity LM": the intensity
stages alone.
"NCC LM": the textbook's, coarse to fine. "mNCC Adam": in the manner of DiffPose (Gopalakrishnan et al., CVPR 2024) and xvr, whose objective it has
(NCC of the image, of its patches and of its gradients) and whose steps it takes at first, on three sizes; they fall exponentially, for a number of
iterations that is known, where those methods wait for a plateau."""


def _searched(search: Search, problem: MultiViewProblem | PosePrior, pose: Tensor, progress: ProgressCallback) -> Tensor:
    with torch.no_grad():
        optimiser = levenberg_marquardt if isinstance(search, LMOptions) else first_order
        return optimiser(problem, pose, problem.centre, search, progress).pose  # type: ignore[arg-type]  # each gets its own options


def _batch(start: np.ndarray | None, pyramid: VolumePyramid) -> Tensor:
    if start is None:
        raise InputError("This search begins at an initial pose, but there is none.")
    return torch.from_numpy(np.array(start, dtype=np.float64))[None].to(pyramid.device)


def _staged(progress: ProgressCallback, stage: str) -> ProgressCallback:
    def report(step: Progress) -> None:
        progress(replace(step, stage=f"{step.stage}, {stage}"))

    return report
