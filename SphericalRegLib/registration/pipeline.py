"""`register`: from a CT and one or several X-rays to a pose.

A screened multi-start (registration.screening) finds candidate poses at low resolution; Levenberg-Marquardt refines a shrinking number of them on
finer and finer images; the best by similarity is kept. Where they have not settled, a closer search begins them again; where what was found is
doubtful, a wider one. With a model, its regressor and Levenberg-Marquardt on the spherical similarity (registration.proposals) propose poses: in the
search's place where nothing is known to search about, beside it otherwise. Truth never enters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..devices import one_torch_thread
from ..errors import InputError
from ..geometry.se3 import invert
from ..imaging.attenuation import Attenuation, attenuation
from ..imaging.case import View
from ..imaging.radiograph import Radiograph
from ..imaging.volume import Volume
from ..optimization.covariance import result_covariance
from ..optimization.levenberg_marquardt import LMOptions
from ..optimization.result import OptimizationResult, Status
from ..progress import Progress, ProgressCallback, silent
from ..similarity.named import similarity
from ..similarity.ncc import GlobalNCC
from .options import DEPTHS_MM, MultiStart, RegistrationOptions, Stage
from .plan import Doubt, Plan, Round, as_views, plan_from
from .problem import MultiViewProblem, ViewTerm
from .refinement import refined
from .region import at_resolution, crop_to_content, pixel_at_ct
from .resolution import VolumePyramid
from .result import Hypothesis, RegistrationResult, StageRecord
from .scored import Scored, best_first, scored
from .screening import APART_DEG, APART_MM, RADIUS_SIGMAS, best_depths, diverse, screen, spread_poses

if TYPE_CHECKING:
    from ..models.checkpoint import Model

WORTH_ANOTHER = 0.02
"""A closer search that raises the score by no more than this has ended where the one before it did."""

STILL_FALLING, LAST_STEPS = 1e-3, 5
"""A stage that is cut off while its cost still falls by this share in so many steps is on its way somewhere: among X-rays of pelvis, head and wrist
all wrong ends that were cut off fell faster, and all right ones but two fell slower, most of them not at all."""

LEAST_APART_DEG, LEAST_APART_MM = 0.1, 0.1
"""Poses of a search that are nearer than both are one, however narrow the search: with a spread of zero none would be near another."""

RESIDUAL_CORRELATION_PX = 3.5
"""Neighbouring residuals are alike over the radius of the gradient filter and more. Chosen so that the covariance's depth is about what simulated
X-rays of a pelvis and a head missed it by; on others, errors were 1.0 (thorax) to 1.6 (head) times what it says."""


def prepare(volume: Volume | Attenuation, options: RegistrationOptions | None = None, device: Any = "cpu") -> VolumePyramid:
    """A CT made ready once for several registrations; pass the result to `register` in the volume's place.

    Raises:
        InputError: nothing in the volume attenuates, or labels that it has not.
    """
    options = RegistrationOptions() if options is None else options
    made = attenuation(volume, options.attenuation, options.labels) if isinstance(volume, Volume) else volume
    return VolumePyramid(made, device)


def register(
    volume: Volume | Attenuation | VolumePyramid,
    radiographs: Radiograph | View | Sequence[Radiograph | View],
    initial: Any = None,
    *,
    model: Model | None = None,
    options: RegistrationOptions | None = None,
    device: Any = "cpu",
    seed: int = 0,
    progress: ProgressCallback | None = None,
    world_from_camera_reference: np.ndarray | None = None,
) -> RegistrationResult:
    """Find the pose at which the CT's projection matches the X-ray.

    Args:
        volume: the CT; `prepare` it once where several X-rays of it are registered. What is prepared already keeps its device, its attenuation and
            its labels, whatever `device` and `options` say; the result's `options` say what was rendered.
        radiographs: an X-ray, or several `View`s, which know where their cameras stand to each other (`camera_from_camera1`): they are registered
            jointly, and `initial` and the result are those of the first.
        initial: camera_from_world (4, 4), or the name of a view ("ap", "pa", "left", "right"). None asks the model's regressor; without one, or where
            its poses do not show the CT or lead to a low score, all named views are tried and the best is kept.
        model: encoder and regressor of this CT (`models.checkpoint.load_model`): poses refined on the spherical similarity then join those of the
            search, or take their place where the regressor was asked. Notes say where the model does not fit the CT.
        options: see `RegistrationOptions`.
        device: "cpu", "cuda", "cuda:1", ...
        seed: of the multi-start; the same seed on the same device gives the same pose.
        progress: called several times a second; raise `Cancelled` from it to stop.
        world_from_camera_reference: see `RegistrationResult`.

    Raises:
        InputError: the pose is not rigid, the view's name is unknown, views do not say how they are related, the CT's projection misses the X-ray.
        Cancelled: out of `progress`.
    """
    began = time.perf_counter()
    options = RegistrationOptions() if options is None else options
    progress = silent if progress is None else progress
    views = as_views(radiographs)
    if isinstance(volume, VolumePyramid):
        pyramid = volume
    else:
        progress(Progress("prepare the CT", 0, 1))
        pyramid = prepare(volume, options, device)
    plan = plan_from(initial, views, pyramid, options)
    with torch.no_grad(), one_torch_thread():
        run = _Run(pyramid, views, options, seed, progress)
        if model is not None:
            from .proposals import propose  # networks are loaded where there is a model only

            asked = initial is None and model.regressor is not None
            if not asked:
                run.check(plan.first.poses)
            about = None if asked else plan.first.poses
            proposal = propose(pyramid, views, model.to(pyramid.device), about, plan.first.search, options.learned, seed, progress)
            if not len(proposal.poses):
                run.check(plan.first.poses)
                plan = plan.after_asking_in_vain(proposal)
            else:
                ranked = run.ranked(proposal.poses)
                # A start that is given is searched about whatever the model says.
                plan = plan.after_asking(proposal, ranked, options) if asked else plan.beside(proposal, ranked, options)
        else:
            run.check(plan.first.poses)
        result = run.register(plan, world_from_camera_reference, began)
    return result if model is None else replace(result, model=dict(model.identity))


@dataclass(frozen=True)
class _Grid:
    """Image sizes (columns, rows) of each view, and the size of a pixel measured at the CT, mm."""

    sizes: tuple[tuple[int, int], ...]
    pixel_mm: float


@dataclass(frozen=True)
class _Attempt:
    """What the last stage found, with scores (B,) by `RegistrationOptions.scored_by`, best first; the best score of the last stage before it that had
    the same similarity, NaN where there was none; the poses (S, 4, 4) that it began from; what was done, and what to tell the user about it."""

    found: OptimizationResult
    scores: Tensor
    coarser_score: float
    initial: Tensor
    records: tuple[StageRecord, ...]
    notes: tuple[str, ...] = ()

    @property
    def pose(self) -> Tensor:
        """(1, 4, 4)."""
        return self.found.pose[:1]

    @property
    def score(self) -> float:
        return float(self.scores[0])

    def loses(self, share: float) -> bool:
        """Whether the score on the finest images is below this share of that on the coarser ones."""
        return math.isfinite(self.coarser_score) and not self.score >= share * self.coarser_score

    @property
    def still_falling(self) -> bool:
        """Whether the last stage used up its iterations while its cost still fell (in its last steps, `LAST_STEPS` or as many as there were). One
        that has crept, or whose last steps were all in vain, has arrived all the same."""
        costs = self.found.history.costs[-1 - LAST_STEPS :, 0]
        return self.found.status[0] is Status.MAX_ITERATIONS and bool(costs[0] - costs[-1] > STILL_FALLING * costs[-1])

    def noting(self, note: str) -> _Attempt:
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True)
class _Run:
    """One registration on its way."""

    pyramid: VolumePyramid
    views: tuple[View, ...]
    options: RegistrationOptions
    seed: int
    progress: ProgressCallback

    def check(self, starts: Tensor) -> None:
        """Refuse what cannot work before any long work."""
        for start in starts:
            for view in self.views:
                crop_to_content(view.radiograph, self._of_view(view, start[None]), self.pyramid.corners, 0.0)

    def register(self, plan: Plan, reference: np.ndarray | None, began: float) -> RegistrationResult:
        best = self._round(plan.first, plan.closer)
        for further in plan.further:
            doubt = self._doubt(best)
            if doubt in further.answers:
                best = best.noting(f"The result was doubtful ({doubt.value}): {further.words}.")
                best = self._or_better(best, partial(self._round, further, plan.closer))
        if (doubt := self._doubt(best)) is not None:
            best = best.noting(f"The result is doubtful ({doubt.value}): look at the images before it is used.")
        start = _nearest(best.initial, best.pose[0]).cpu().numpy()
        ends = best.found.pose.cpu().numpy()
        return RegistrationResult(
            camera_from_world=ends[0],
            covariance=result_covariance(best.found, RESIDUAL_CORRELATION_PX)[0].cpu().numpy(),
            centre_ras_mm=self.pyramid.centre.cpu().numpy(),
            score=best.score,
            hypotheses=tuple(Hypothesis(pose, score) for pose, score in zip(ends, best.scores.tolist())),
            stages=plan.records + best.records,
            initial_camera_from_world=start,
            world_from_camera_reference=np.linalg.inv(start) if reference is None else np.asarray(reference, dtype=np.float64),
            options={**asdict(self.options), **_rendered(self.pyramid.attenuation), "device": str(self.pyramid.device)},
            doubt=None if doubt is None else doubt.value,
            notes=plan.notes + best.notes,
            seed=self.seed,
            seconds=time.perf_counter() - began,
        )

    def _doubt(self, attempt: _Attempt) -> Doubt | None:
        if not attempt.score >= self.options.doubtful_score:  # no number is low, too
            return Doubt.LOW
        if attempt.loses(self.options.doubtful_below):
            return Doubt.LOST
        return Doubt.UNSETTLED if attempt.still_falling else None

    def _round(self, round_: Round, closer: MultiStart | None) -> _Attempt:
        """An attempt; where it has not settled, a further one from a search about its end, and so on while they get better."""
        attempt = self._attempt(round_.poses, round_.search, round_.beside, round_.initial)
        if closer is None or (sign := self._unsettled(attempt)) is None:
            return attempt
        attempt = attempt.noting(f"The stages had not settled ({sign}): a closer search began them again.")
        while True:
            end, before = attempt.pose, attempt.score
            attempt = self._or_better(attempt, partial(self._attempt, end, closer, end[:0], round_.initial))
            if not attempt.score > before + WORTH_ANOTHER:
                return attempt

    def _unsettled(self, attempt: _Attempt) -> str | None:
        """What says that the stages have not arrived: a similarity that only coarse images have, or a search that still went on when it was ended.
        (One that found no way down, which is a minimum too, is as settled as one that converged.)"""
        if attempt.loses(self.options.stuck_below):
            return f"a score of {attempt.score:.2f} on the finest images, of {attempt.coarser_score:.2f} on coarser ones"
        return "the cost still fell when the last one's iterations were used up" if attempt.still_falling else None

    def _or_better(self, attempt: _Attempt, another: Callable[[], _Attempt]) -> _Attempt:
        """That of the better score, judged on the same part of the X-rays (each pose over its own valid pixels of it), with the records and notes of
        both. Another that cannot be made, or be compared, takes nothing away."""
        try:
            other = another()
            both = torch.cat((attempt.pose, other.pose))
            problem = self._problem(both, self.options.stages[-1].image_px, self.options.scored_by)
        except InputError as error:  # an end may lie where a search about it does not show the CT any more
            return attempt.noting(f"This further search could not be made ({error}): the pose is the one that was found before it.")
        first, second = problem.score(both).nan_to_num(-math.inf).tolist()
        better = other if second > first else attempt
        return replace(better, records=attempt.records + other.records, notes=attempt.notes + other.notes)

    def _attempt(self, starts: Tensor, multi_start: MultiStart | None, beside: Tensor, initial: Tensor) -> _Attempt:
        """A search about the starts, and all stages from what it found and other poses."""
        poses, records, scored_by = starts, [], self.options.scored_by
        if multi_start is not None:
            poses, record = self._search(starts, multi_start, self.options.stages[0].hypotheses)
            records.append(record)
        for stage in self.options.stages:
            # Beside, in the first stage: other poses push out nothing that the search found.
            found, scores, record = self._refine(stage, torch.cat((poses[: stage.hypotheses], beside)))
            records.append(record)
            poses, beside = found.pose, beside[:0]
        if stage.similarity != scored_by:
            scores = self._problem(poses, stage.image_px, scored_by).score(poses)
            order = best_first(scores)
            found, scores = found.of(order), scores[order]
        *before, _ = records[-len(self.options.stages) :]
        coarser = [record.score for record in before if record.similarity == scored_by]
        return _Attempt(found, scores, coarser[-1] if coarser else math.nan, initial, tuple(records))

    def _problem(self, poses: Tensor, image_px: int, name: str) -> MultiViewProblem:
        """The X-rays where these poses show the CT, at a resolution and compared by a similarity."""
        return MultiViewProblem(self._terms(self._crops(poses, 0.0, image_px), poses, name))

    def ranked(self, poses: Tensor) -> Tensor:
        """The best and mutually different of a model's poses by the first stage's similarity, each at its best depth."""
        stage, centre = self.options.stages[0], self.pyramid.centre
        problem = self._problem(poses, stage.image_px, stage.similarity)
        if len(self.views) == 1:
            compared = Scored.sorted(*best_depths(problem, poses, self.pyramid.corners.mean(0), DEPTHS_MM))
        else:
            compared = scored(problem, poses)
        poses = compared.poses
        return poses[diverse(poses, self.options.learned.keep, centre, APART_DEG, APART_MM)]

    def _search(self, starts: Tensor, options: MultiStart, count: int) -> tuple[Tensor, StageRecord]:
        """The best and mutually different poses about the starts, best first."""
        began = time.perf_counter()
        centre = self.pyramid.centre
        radius = RADIUS_SIGMAS * options.translation_mm
        rounds = []
        for number, start in enumerate(starts):
            name = "search" if len(starts) == 1 else f"search {number + 1} of {len(starts)}"
            rounds.append(self._screen(spread_poses(start, centre, options, self.seed), radius, options.image_px, options.similarity, name))
        found, grid = Scored.merged([screened for screened, _ in rounds]), max((grid for _, grid in rounds), key=lambda grid: grid.pixel_mm)
        evaluated = len(found.poses)
        if options.finalists:
            # Shifts were whole pixels of a coarse grid: the better poses are compared again on a finer one, a pixel or two around.
            near = min(radius, 2.0 * grid.pixel_mm)
            found, grid = self._screen(found.poses[: options.finalists], near, options.finalist_px, options.similarity, "search, finalists")
        apart = max(0.4 * options.rotation_deg, LEAST_APART_DEG), max(0.3 * options.translation_mm, LEAST_APART_MM)
        poses = found.poses[diverse(found.poses, count, centre, *apart)]
        seconds, best = time.perf_counter() - began, (poses[0].cpu().numpy(),)
        return poses, StageRecord("search", options.similarity, grid.sizes, evaluated, 0, seconds, float(found.scores[0]), poses=best)

    def _screen(self, poses: Tensor, radius_mm: float, image_px: int, name: str, stage: str) -> tuple[Scored, _Grid]:
        """Each pose at its best shift up to a radius, on one grid that holds them all."""
        crops = self._crops(poses, radius_mm, image_px)
        views = self._terms(crops, poses, name)
        pixel = max(pixel_at_ct(crop.camera, self._of_view(view, poses[:1]), self.pyramid.centre) for crop, view in zip(crops, self.views))
        grid = _Grid(tuple(crop.camera.size_px for crop in crops), pixel)
        return screen(views, poses, radius_mm, pixel, self.progress, stage), grid

    def _refine(self, stage: Stage, poses: Tensor) -> tuple[OptimizationResult, Tensor, StageRecord]:
        """Levenberg-Marquardt from each of the poses; results sorted by similarity, best first."""
        began = time.perf_counter()
        name = f"refine {stage.image_px} px"
        problem = self._problem(poses, stage.image_px, stage.similarity)
        if stage.depths_mm and len(self.views) == 1:
            poses, _ = best_depths(problem, poses, self.pyramid.corners.mean(0), stage.depths_mm)
        self.progress(Progress(name, 0, stage.iterations))
        lm = LMOptions(max_iterations=stage.iterations, cost_tolerance=stage.cost_tolerance, step_tolerance_rad=1e-5, step_tolerance_mm=1e-3)
        return refined(problem.holding_valid_at(poses), poses, lm, name, stage.similarity, began, self.progress)

    def _crops(self, poses: Tensor, margin_mm: float, image_px: int) -> list[Radiograph]:
        """Each view's X-ray, cropped to where the CT can be and brought to the resolution."""
        return [
            at_resolution(crop_to_content(view.radiograph, self._of_view(view, poses), self.pyramid.corners, margin_mm), image_px)
            for view in self.views
        ]

    def _terms(self, crops: Sequence[Radiograph], poses: Tensor, name: str) -> list[ViewTerm[GlobalNCC]]:
        terms = []
        for view, crop in zip(self.views, crops):
            camera_from_camera1 = self._relation(view)
            spacing = pixel_at_ct(crop.camera, camera_from_camera1 @ poses[:1], self.pyramid.centre)
            fixed, mask = crop.tensor(self.pyramid.device)
            try:
                compared = similarity(name, fixed, mask)
            except InputError as error:
                columns, rows = crop.camera.size_px
                raise InputError(
                    f"X-ray {crop.name!r}: too little of the part that can show the CT is inside its mask, on the {columns} x {rows} pixels of a "
                    f"stage: {error} Expected a mask that leaves more of it, or stages of larger images."
                ) from None
            terms.append(ViewTerm(self.pyramid.projector(crop.camera, spacing), compared, camera_from_camera1))
        return terms

    def _of_view(self, view: View, camera1_from_world: Tensor) -> Tensor:
        return self._relation(view) @ camera1_from_world

    def _relation(self, view: View) -> Tensor:
        return torch.as_tensor(view.camera_from_camera1, dtype=torch.float64, device=self.pyramid.device)


def _rendered(attenuation: Attenuation) -> dict[str, Any]:
    """What of a CT was rendered, and how: as it was prepared, whatever this registration's options say; nothing where that is not known."""
    if attenuation.model is None:
        return {}
    return {"attenuation": asdict(attenuation.model), "labels": attenuation.labels}


def _nearest(starts: Tensor, pose: Tensor) -> Tensor:
    """The start (4, 4) whose orientation is nearest to the pose's."""
    relative = invert(starts)[:, :3, :3] @ pose[:3, :3]
    return starts[int(relative.diagonal(dim1=1, dim2=2).sum(1).argmax())]
