"""What a training is worth so far: how far off its networks are on fixed X-rays at poses that were never trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.distances import in_plane_and_depth, mean_displacement, rotation_angle
from SphericalRegLib.geometry.se3 import recentred, retract, transform_points
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.models.encoder import SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.optimization.prior import PosePrior
from SphericalRegLib.progress import Progress, ProgressCallback
from SphericalRegLib.similarity.spherical import NOISE_RAD

from .paired import AnchoredPairs, PairedProblem
from .scene import TrainingScene

if TYPE_CHECKING:
    from .options import TrainingOptions

STAGE = "validation"
TARGETS = 64

CELLS_AT_ONCE = 2**11
"""Cells of the networks' feature maps that are worked on at a time, of all X-rays together: 32 X-rays of 64 x 64 pixels, 2 of 256 x 256, whose
attention takes sixteen times as much for each cell."""


@dataclass(frozen=True)
class ValidationOptions:
    """How a training is watched.

    Attributes:
        times: how often, evenly over the training and at its end; 0 never.
        xrays: how many X-rays, of all CTs together.
        sigma_deg, sigma_mm: standard deviation per axis of the starts of Levenberg-Marquardt about the true poses.
        iterations: of Levenberg-Marquardt.
        seed: of poses, looks and starts; the training's own seed is another stream of random numbers whatever its value.
    """

    times: int = 10
    xrays: int = 32
    sigma_deg: float = 10.0
    sigma_mm: float = 20.0
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.times, self.seed) < 0 or min(self.xrays, self.iterations) < 1 or not min(self.sigma_deg, self.sigma_mm) >= 0:
            raise InputError(
                f"A training is validated {self.times} times on {self.xrays} X-rays by {self.iterations} iterations from starts of {self.sigma_deg} "
                f"deg and {self.sigma_mm} mm, with the seed {self.seed}; expected one X-ray and iteration or more, and nothing negative."
            )


@dataclass(frozen=True)
class _Xrays:
    """Of one CT, as many as are worked on at a time: X-rays and masks (B, 1, S, S), true poses and starts (B, 4, 4), bone points (N, 3)."""

    scene: TrainingScene
    image: Tensor
    mask: Tensor
    truth: Tensor
    start: Tensor
    targets: Tensor

    def split(self) -> list[_Xrays]:
        """The same, no more at once than there is memory for."""
        size = max(1, CELLS_AT_ONCE // TrunkConfig(self.image.shape[-1]).cells)
        parts = zip(*(part.split(size) for part in (self.image, self.mask, self.truth, self.start)))
        return [replace(self, image=image, mask=mask, truth=truth, start=start) for image, mask, truth, start in parts]


class Validation:
    """A fixed set of X-rays of the training's CTs, made once.

    Args:
        scenes: the CTs; those of the training, or others (leave-one-out).
        options: the training's: X-rays are drawn as its are, and judged in its loss's metric.
    """

    def __init__(self, scenes: Sequence[TrainingScene], options: TrainingOptions) -> None:
        self.options, watched = options, options.validation
        counts = [len(part) for part in np.array_split(np.arange(max(watched.xrays, len(scenes))), len(scenes))]
        # The word in front keeps the stream apart from a training's, whose seed is a small number as well.
        seeds = np.random.SeedSequence([0x56414C, watched.seed]).generate_state(len(scenes), np.uint64)
        made = [_make(scene, count, options, int(seed >> 1)) for scene, count, seed in zip(scenes, counts, seeds)]
        self.sets = [part for xrays in made for part in xrays.split()]

    def __call__(self, encoder: SphericalEncoder, regressor: PoseRegressor | None, progress: ProgressCallback) -> dict[str, float]:
        """The figures of networks as they are.

        "cosine": mean cosine between the similarity's pose gradient and the squared geodesic's at the starts, in the loss's metric.
        "regressor_deg", "regressor_mm", "regressor_mtre_mm": median error of the likeliest hypothesis: angle, displacement of the CT's centre, mean
        displacement of bone points.
        "start_mm", "mtre_mm", "mtre_75_mm", "below_2_mm": mean 3D displacement of bone points at the starts (median) and after Levenberg-Marquardt
        on the spherical similarity (median, 75 %, share), with the Jacobian that the loss asks for, as in registrations, or the network's
        own where it anchors no embeddings. The starts' own spread is a prior (`optimization.prior`): what the similarity can hardly
        see, depth, then stays where it was. A registration has no such prior; its intensity stages look for depth.
        "start_in_plane_mm", "in_plane_mm", "in_plane_75_mm": the part of it across the ray.
        """
        was_training = encoder.training
        encoder.eval()
        values: dict[str, list[Tensor]] = {}
        try:
            with torch.no_grad():
                for number, xrays in enumerate(self.sets):
                    for name, value in self._of(xrays, encoder, regressor, _part(progress, number, len(self.sets))).items():
                        values.setdefault(name, []).append(value.double().cpu())
        finally:
            encoder.train(was_training)
        joined = {name: torch.cat(parts) for name, parts in values.items()}
        after, across = joined.pop("after"), joined.pop("across")
        figures = {name: float(value.mean() if name == "cosine" else torch.quantile(value, 0.5)) for name, value in joined.items()}
        for name, errors in (("mtre", after), ("in_plane", across)):
            figures[f"{name}_mm"], figures[f"{name}_75_mm"] = torch.quantile(errors, torch.tensor([0.5, 0.75], dtype=errors.dtype)).tolist()
        return {**figures, "below_2_mm": float((after < 2.0).double().mean())}

    def _of(self, xrays: _Xrays, encoder: SphericalEncoder, regressor: PoseRegressor | None, progress: ProgressCallback) -> dict[str, Tensor]:
        """Figures (B,) of each X-ray."""
        watched = self.options.validation
        centre, everyone = xrays.scene.centre, torch.arange(len(xrays.truth), device=xrays.truth.device)
        places = self.options.places(xrays.scene.drr.camera, centre)
        problem = PairedProblem(encoder, encoder(xrays.image, xrays.mask), xrays.mask, xrays.scene.drr)
        r, jacobian = problem.residual_and_jacobian(xrays.start, everyone)
        gradient = places.metric.gradient(xrays.start, (jacobian.transpose(1, 2) @ r[..., None])[..., 0])
        wanted = -places.log(xrays.start, xrays.truth).to(gradient)
        if self.options.loss.anchors:
            problem = AnchoredPairs(encoder, problem.fixed, xrays.mask, xrays.scene.drr, places)
        found: dict[str, Tensor] = {"cosine": torch.nn.functional.cosine_similarity(gradient, wanted, dim=-1)}
        if regressor is not None:
            mixture = regressor(xrays.image, xrays.mask)
            likeliest = recentred(mixture.pose[everyone, mixture.weight.argmax(1)].double(), regressor.centre.double(), centre)
            found["regressor_deg"] = torch.rad2deg(rotation_angle(likeliest, xrays.truth))
            found["regressor_mm"] = mean_displacement(xrays.truth, likeliest, centre[None])
            found["regressor_mtre_mm"] = mean_displacement(xrays.truth, likeliest, xrays.targets)

        def report(step: Progress) -> None:
            progress(replace(step, stage=STAGE, pose=None))

        lm = LMOptions(max_iterations=watched.iterations, cost_tolerance=1e-5, step_tolerance_rad=1e-5, step_tolerance_mm=1e-3)
        prior = PosePrior(problem, xrays.start, centre, math.radians(watched.sigma_deg), watched.sigma_mm, NOISE_RAD)
        end = levenberg_marquardt(prior, xrays.start, centre, lm, report).pose
        found["start_mm"] = mean_displacement(xrays.truth, xrays.start, xrays.targets)
        found["after"] = mean_displacement(xrays.truth, end, xrays.targets)
        found["start_in_plane_mm"], found["across"] = (in_plane_and_depth(xrays.truth, pose, xrays.targets, centre)[0] for pose in (xrays.start, end))
        return found


def bone_points(bone: Attenuation, body: Attenuation, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points (count, 3) in world mm, centres of voxels of the body that hold bone; of all of it where there is too little."""
    voxels = np.argwhere((bone.mu > 0.3) & (body.mu > 0))
    if len(voxels) < count:
        voxels = np.argwhere(body.mu > 0)
    chosen = voxels[rng.choice(len(voxels), count, replace=len(voxels) < count)]
    affine = torch.from_numpy(np.asarray(bone.world_from_voxel, dtype=np.float64))
    return transform_points(affine, torch.from_numpy(chosen.astype(np.float64))).numpy()


def _make(scene: TrainingScene, count: int, options: TrainingOptions, seed: int) -> _Xrays:
    generator, watched = torch.Generator().manual_seed(seed), options.validation
    centre = scene.centre.cpu()
    truth = options.poses.sample(count, scene.drr.camera, centre, generator)
    scale = torch.tensor([math.radians(watched.sigma_deg)] * 3 + [watched.sigma_mm] * 3, dtype=torch.float64)
    start = retract(truth, torch.randn(count, 6, dtype=torch.float64, generator=generator) * scale, centre)
    device = scene.centre.device
    truth, start = truth.to(device), start.to(device)
    image, mask = options.look(*scene.tissues(truth, goes_on=True), generator)
    mask = mask * options.cameras.fields(count, mask.shape[-1], generator).to(mask)
    targets = bone_points(scene.bone.attenuation, scene.drr.attenuation, TARGETS, np.random.default_rng(seed))
    return _Xrays(scene, image, mask, truth, start, torch.from_numpy(targets).to(device))


def _part(progress: ProgressCallback, number: int, count: int) -> ProgressCallback:
    """Progress of one CT's X-rays as part of that of all."""

    def report(step: Progress) -> None:
        progress(replace(step, done=number * step.total + step.done, total=count * step.total))

    return report
