"""`register`: from a CT and one or several X-rays to a pose.

A screened multi-start (registration.screening) finds candidate poses at low resolution; Levenberg-Marquardt refines a shrinking number of them on
finer and finer images; the best by similarity is kept. Where they have stuck, a closer search begins them again. With a model, its regressor and
Levenberg-Marquardt on the spherical similarity (registration.proposals) propose poses: in the search's place where nothing is known to search about,
beside it otherwise. Truth never enters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.se3 import check_rigid, invert, orthonormalise
from ..geometry.views import NAMED_VIEWS, named_view
from ..imaging.attenuation import Attenuation, attenuation
from ..imaging.case import View
from ..imaging.radiograph import Radiograph
from ..imaging.volume import Volume
from ..optimization.covariance import result_covariance
from ..optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from ..optimization.result import OptimizationResult, Status
from ..progress import Progress, ProgressCallback, silent
from ..similarity.named import similarity
from .options import DEPTHS_MM, MultiStart, RegistrationOptions, Stage
from .problem import MultiViewProblem, ViewTerm
from .region import at_resolution, crop_to_content, visible_in_all
from .resolution import VolumePyramid
from .result import Hypothesis, RegistrationResult, StageRecord
from .screening import APART_DEG, APART_MM, RADIUS_SIGMAS, Screened, ScreeningView, best_depths, diverse, screen, spread_poses

if TYPE_CHECKING:
    from ..models.checkpoint import Model

COST_TOLERANCE = 1e-4
"""Relative decrease below which a stage is done: a tenth of what sampling noise makes of the cost."""

WORTH_ANOTHER = 0.02
"""A closer search that raises the score by no more than this has ended where the one before it did."""

_ASKED = "Initial pose: none was given; the model's regressor proposed it."

RESIDUAL_CORRELATION_PX = 2.0
"""Neighbouring residuals are alike over about the radius of the gradient filter."""


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
        volume: the CT; `prepare` it once where several X-rays of it are registered.
        radiographs: an X-ray, or several `View`s, which know where their cameras stand to each other (`camera_from_camera1`): they are registered
            jointly, and `initial` and the result are those of the first.
        initial: camera_from_world (4, 4), or the name of a view ("ap", "pa", "left", "right"). None asks the model's regressor; without one it tries
            all named views and keeps the best.
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
    views = _as_views(radiographs)
    pyramid = volume if isinstance(volume, VolumePyramid) else prepare(volume, options, device)
    starts, multi_start, notes = _starts(initial, views, pyramid, options)
    with torch.no_grad():
        run = _Run(pyramid, views, options, seed, progress)
        closer = None if multi_start is None else options.closer_start
        second = options.second_start if multi_start is options.multi_start is not None else None
        plan = _Plan(starts, multi_start, closer, second, notes)
        if model is not None:
            from .proposals import propose  # networks are loaded where there is a model only

            asked = initial is None and model.regressor is not None
            if not asked:
                run.check(starts)
            here = model.to(pyramid.device)
            proposal = propose(pyramid, views, here, None if asked else starts, multi_start, options.learned, seed, progress)
            notes = ((_ASKED,) if asked else notes) + proposal.notes
            if asked:  # (a start that is given is searched about whatever the model says)
                multi_start, second = options.learned.search, options.second_start
            plan = _Plan(proposal.starts, multi_start, closer, second, notes, proposal.poses, asked, proposal.records)
        result = run.register(plan, world_from_camera_reference, began)
    return result if model is None else replace(result, model=dict(model.identity))


@dataclass(frozen=True)
class _Grid:
    """Image sizes (columns, rows) of each view, and the size of a pixel measured at the CT, mm."""

    sizes: tuple[tuple[int, int], ...]
    pixel_mm: float


@dataclass(frozen=True)
class _Plan:
    """Where a registration begins: poses (S, 4, 4), a search about them, a closer one about an end where the stages have stuck, a second one about
    the starts where nothing good was found, and poses (B, 4, 4) that a model proposes: beside the starts, or, where it was `asked` for one, in their
    place."""

    starts: Tensor
    search: MultiStart | None
    closer: MultiStart | None
    second: MultiStart | None
    notes: tuple[str, ...]
    proposed: Tensor | None = None
    asked: bool = False
    records: tuple[StageRecord, ...] = ()


@dataclass(frozen=True)
class _Attempt:
    """What the last stage found, with scores (B,) by `RegistrationOptions.scored_by`, best first; the best score of the last stage before it that had
    the same similarity, NaN where there was none; what was done, and what to tell the user about it."""

    found: OptimizationResult
    scores: Tensor
    coarser_score: float
    records: tuple[StageRecord, ...]
    notes: tuple[str, ...] = ()

    @property
    def pose(self) -> Tensor:
        """(1, 4, 4)."""
        return self.found.pose[:1]

    @property
    def score(self) -> float:
        return float(self.scores[0])

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

    def register(self, plan: _Plan, reference: np.ndarray | None, began: float) -> RegistrationResult:
        self.check(plan.starts)
        poses, beside = plan.starts, plan.starts[:0]
        if plan.proposed is not None:
            ranked = self._ranked(plan.proposed)
            poses, beside = (ranked, beside) if plan.asked else (poses, ranked)
        best = self._looked_closer(self._attempt(poses, plan.search, beside), plan.closer)
        if plan.second is not None and best.score < self.options.doubtful_score:
            best = best.noting(f"What was found first had a low similarity ({best.score:.2f}), and the search was widened.")
            best = self._or_better(best, lambda: self._looked_closer(self._attempt(poses, plan.second, beside), plan.closer))
        start = _nearest(plan.starts, best.pose[0]).cpu().numpy()
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
            notes=plan.notes + best.notes,
            seed=self.seed,
            seconds=time.perf_counter() - began,
        )

    def _looked_closer(self, attempt: _Attempt, closer: MultiStart | None) -> _Attempt:
        """The attempt; where it has stuck, a further one from a search about its end, and so on while they get better."""
        if closer is None or (sign := self._sign_of_stuck(attempt)) is None:
            return attempt
        attempt = attempt.noting(f"The stages had stuck ({sign}): a closer search began them again.")
        before = -math.inf
        while attempt.score > before + WORTH_ANOTHER:
            end, before = attempt.pose, attempt.score
            attempt = self._or_better(attempt, partial(self._attempt, end, closer, end[:0]))
        return attempt

    def _sign_of_stuck(self, attempt: _Attempt) -> str | None:
        """What says that the stages have not arrived: a similarity that only coarse images have, or a search that still went on when it was ended."""
        if attempt.score < self.options.stuck_below * attempt.coarser_score:
            return f"a score of {attempt.score:.2f} on the finest images, of {attempt.coarser_score:.2f} on coarser ones"
        if attempt.found.status[0] is Status.MAX_ITERATIONS:
            return "the last one used up its iterations"
        return None

    def _or_better(self, attempt: _Attempt, another: Callable[[], _Attempt]) -> _Attempt:
        """That of the better score, judged on the same pixels, with the records and notes of both. Another that cannot be made takes nothing away."""
        try:
            other = another()
        except InputError as error:  # an end may lie where a search about it does not show the CT any more
            return attempt.noting(f"That search could not be made ({error}): the pose is the one that was found before it.")
        both = torch.cat((attempt.pose, other.pose))
        first, second = self._problem(both, self.options.stages[-1].image_px, self.options.scored_by)[0].score(both).nan_to_num(-math.inf).tolist()
        better = other if second > first else attempt
        return replace(better, records=attempt.records + other.records, notes=attempt.notes + other.notes)

    def _attempt(self, starts: Tensor, multi_start: MultiStart | None, beside: Tensor) -> _Attempt:
        """A search about the starts, and all stages from what it found and other poses."""
        poses, records, scored_by = starts, [], self.options.scored_by
        if multi_start is not None:
            poses, record = self._search(starts, multi_start, self.options.stages[0].hypotheses)
            records.append(record)
        most = len(beside)  # more in the first stage: other poses push out nothing that the search found
        for stage in self.options.stages:
            found, scores, record = self._refine(stage, torch.cat((poses[: stage.hypotheses], beside))[: stage.hypotheses + most])
            records.append(record)
            poses, beside, most = found.pose, beside[:0], 0
        if stage.similarity != scored_by:
            scores = self._problem(poses, stage.image_px, scored_by)[0].score(poses)
            order = scores.argsort(descending=True, stable=True)
            found, scores = _reordered(found, order), scores[order]
        *before, _ = records[-len(self.options.stages) :]
        coarser = [record.score for record in before if record.similarity == scored_by]
        return _Attempt(found, scores, coarser[-1] if coarser else math.nan, tuple(records))

    def _problem(self, poses: Tensor, image_px: int, name: str) -> tuple[MultiViewProblem, list[Radiograph]]:
        """The X-rays where these poses show the CT, at a resolution and compared by a similarity."""
        crops = self._crops(poses, 0.0, image_px)
        return MultiViewProblem(self._terms(crops, poses, name)), crops

    def _ranked(self, poses: Tensor) -> Tensor:
        """The best and mutually different of a model's poses by the first stage's similarity, each at its best depth."""
        stage, centre = self.options.stages[0], self.pyramid.centre
        problem, _ = self._problem(poses, stage.image_px, stage.similarity)
        if len(self.views) == 1:
            poses = best_depths(problem, poses, self.pyramid.corners.mean(0), DEPTHS_MM)
        poses = poses[problem.score(poses).argsort(descending=True, stable=True)]
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
        found, grid = _merged([screened for screened, _ in rounds]), max((grid for _, grid in rounds), key=lambda grid: grid.pixel_mm)
        evaluated = len(found.poses)
        if options.finalists:
            # Shifts were whole pixels of a coarse grid: the better poses are compared again on a finer one, a pixel or two around.
            near = min(radius, 2.0 * grid.pixel_mm)
            found, grid = self._screen(found.poses[: options.finalists], near, options.finalist_px, options.similarity, "search, finalists")
        poses = found.poses[diverse(found.poses, count, centre, 0.4 * options.rotation_deg, 0.3 * options.translation_mm)]
        seconds, best = time.perf_counter() - began, (poses[0].cpu().numpy(),)
        return poses, StageRecord("search", options.similarity, grid.sizes, evaluated, 0, seconds, float(found.scores[0]), poses=best)

    def _screen(self, poses: Tensor, radius_mm: float, image_px: int, name: str, stage: str) -> tuple[Screened, _Grid]:
        """Each pose at its best shift up to a radius, on one grid that holds them all."""
        crops = self._crops(poses, radius_mm, image_px)
        terms = self._terms(crops, poses, name)
        views = [ScreeningView(term.projector, term.similarity, term.camera_from_camera1) for term in terms]  # type: ignore[arg-type]
        pixel = max(_pixel_at_ct(crop, self._of_view(view, poses[:1]), self.pyramid.centre) for crop, view in zip(crops, self.views))
        grid = _Grid(tuple(crop.camera.size_px for crop in crops), pixel)
        return screen(views, poses, radius_mm, pixel, self.progress, stage), grid

    def _refine(self, stage: Stage, poses: Tensor) -> tuple[OptimizationResult, Tensor, StageRecord]:
        """Levenberg-Marquardt from each of the poses; results sorted by similarity, best first."""
        began = time.perf_counter()
        name = f"refine {stage.image_px} px"
        problem, crops = self._problem(poses, stage.image_px, stage.similarity)
        if stage.depths_mm and len(self.views) == 1:
            poses = best_depths(problem, poses, self.pyramid.corners.mean(0), stage.depths_mm)

        def report(step: Progress) -> None:
            self.progress(replace(step, stage=name))

        self.progress(Progress(name, 0, stage.iterations))
        lm = LMOptions(max_iterations=stage.iterations, cost_tolerance=COST_TOLERANCE, step_tolerance_rad=1e-5, step_tolerance_mm=1e-3)
        found = levenberg_marquardt(problem.holding_valid_at(poses), poses, self.pyramid.centre, lm, report)
        scores = problem.score(found.pose)
        order = scores.argsort(descending=True, stable=True)
        best = int(order[0])
        record = StageRecord(
            name,
            stage.similarity,
            tuple(crop.camera.size_px for crop in crops),
            len(poses),
            int(found.iterations.max()),
            time.perf_counter() - began,
            float(scores[best]),
            tuple(found.history.costs[:, best].tolist()),
            tuple(found.history.poses[:, best].cpu().numpy()),
        )
        return _reordered(found, order), scores[order], record

    def _crops(self, poses: Tensor, margin_mm: float, image_px: int) -> list[Radiograph]:
        """Each view's X-ray, cropped to where the CT can be and brought to the resolution."""
        return [
            at_resolution(crop_to_content(view.radiograph, self._of_view(view, poses), self.pyramid.corners, margin_mm), image_px)
            for view in self.views
        ]

    def _terms(self, crops: Sequence[Radiograph], poses: Tensor, name: str) -> list[ViewTerm]:
        terms = []
        for view, crop in zip(self.views, crops):
            camera_from_camera1 = self._relation(view)
            spacing = _pixel_at_ct(crop, camera_from_camera1 @ poses[:1], self.pyramid.centre)
            fixed, mask = crop.tensor(self.pyramid.device)
            terms.append(ViewTerm(self.pyramid.projector(crop.camera, spacing), similarity(name, fixed, mask), camera_from_camera1))
        return terms

    def _of_view(self, view: View, camera1_from_world: Tensor) -> Tensor:
        return self._relation(view) @ camera1_from_world

    def _relation(self, view: View) -> Tensor:
        return torch.as_tensor(view.camera_from_camera1, dtype=torch.float64, device=self.pyramid.device)


def _as_views(radiographs: Radiograph | View | Sequence[Radiograph | View]) -> tuple[View, ...]:
    given: list[Any] = [radiographs] if isinstance(radiographs, (Radiograph, View)) else list(radiographs)
    if not given:
        raise InputError("There is no X-ray to register to; expected at least one.")
    if isinstance(given[0], Radiograph):
        given[0] = View(given[0], np.eye(4))
    for number, view in enumerate(given, start=1):
        if not isinstance(view, View):
            raise InputError(f"X-ray {number} does not say where its camera stands to the first; expected a View with camera_from_camera1.")
        check_rigid(np.asarray(view.camera_from_camera1), f"camera_from_camera1 of X-ray {number}")
    if np.abs(given[0].camera_from_camera1 - np.eye(4)).max() > 1e-9:
        raise InputError("camera_from_camera1 of the first X-ray must be the identity.")
    return tuple(given)


def _starts(
    initial: Any, views: Sequence[View], pyramid: VolumePyramid, options: RegistrationOptions
) -> tuple[Tensor, MultiStart | None, tuple[str, ...]]:
    """Poses (S, 4, 4) to start from, the search that belongs to them, and what to tell the user about it."""
    names = NAMED_VIEWS if initial is None else (initial,) if isinstance(initial, str) else ()
    if names:
        poses = torch.stack([named_view(name, views[0].radiograph.camera, pyramid.centre) for name in names]).to(pyramid.device)
        shown = visible_in_all(views, poses, pyramid.corners)
        if bool(shown.any()):  # else the check of the starts says what is wrong
            names, poses = tuple(name for name, usable in zip(names, shown.tolist()) if usable), poses[shown]
        note = f"Initial pose: no matrix was given; searched around the named view{'s' if len(names) > 1 else ''} {', '.join(names)}."
        return poses, options.wide_start, (note,)
    pose = initial if isinstance(initial, Tensor) else torch.from_numpy(np.array(_numbers(initial)))
    check_rigid(pose, "The initial pose")
    if pose.shape != (4, 4):
        raise InputError(f"The initial pose has shape {tuple(pose.shape)}; expected one camera_from_world (4, 4).")
    return orthonormalise(pose.to(device=pyramid.device, dtype=torch.float64))[None], options.multi_start, ()


def _numbers(values: Any) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"The initial pose is {values!r}; expected a 4 x 4 matrix camera_from_world or a view's name.") from None


def _pixel_at_ct(radiograph: Radiograph, camera_from_world: Tensor, centre: Tensor) -> float:
    """Size of a pixel measured at the CT's centre, mm."""
    depth = float((camera_from_world[0] @ torch.cat((centre, centre.new_ones(1))))[2])
    camera = radiograph.camera
    return max(camera.pixel_spacing_mm) * max(depth, 0.1 * camera.sdd_mm) / camera.sdd_mm


def _merged(results: Sequence[Screened]) -> Screened:
    poses = torch.cat([result.poses for result in results])
    scores = torch.cat([result.scores for result in results])
    order = scores.argsort(descending=True, stable=True)
    return Screened(poses[order], scores[order])


def _reordered(result: OptimizationResult, order: Tensor) -> OptimizationResult:
    """The same result, its elements in another order."""
    history = replace(
        result.history, poses=result.history.poses[:, order], costs=result.history.costs[:, order], lambdas=result.history.lambdas[:, order]
    )
    return replace(
        result,
        pose=result.pose[order],
        cost=result.cost[order],
        status=tuple(result.status[i] for i in order.tolist()),
        iterations=result.iterations[order],
        history=history,
        normal_matrix=result.normal_matrix[order],
        rows=result.rows[order],
    )


def _nearest(starts: Tensor, pose: Tensor) -> Tensor:
    """The start (4, 4) whose orientation is nearest to the pose's."""
    relative = invert(starts)[:, :3, :3] @ pose[:3, :3]
    return starts[int(relative.diagonal(dim1=1, dim2=2).sum(1).argmax())]
