"""What a model proposes: poses from its regressor or about a given start, refined by Levenberg-Marquardt on the spherical similarity."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.se3 import invert, recentred, retract
from ..imaging.attenuation import Attenuation, AttenuationModel
from ..imaging.case import View
from ..imaging.identity import CtIdentity, ct_identity
from ..models.checkpoint import Model
from ..optimization.levenberg_marquardt import LMOptions
from ..progress import Progress, ProgressCallback
from ..similarity.spherical import SphericalSimilarity
from .learned import anchored_terms, is_anchored, regressed_poses, spherical_terms
from .options import LearnedStart, MultiStart
from .problem import MultiViewProblem
from .refinement import refined
from .region import visible_in_all
from .resolution import VolumePyramid
from .result import StageRecord
from .scored import Scored, scored
from .screening import APART_DEG, APART_MM, diverse, even_normal


@dataclass(frozen=True)
class Proposal:
    """Poses for the intensity stages.

    Attributes:
        poses: (B, 4, 4) of the first camera: the refined ones, the most similar first, then the starts; none where no pose of the regressor that was
            asked shows the CT in the X-rays.
        starts: (S, 4, 4) that it began with: the regressor's mixture, or what was given.
        likeliest: (K, 4, 4), the poses of the regressor's mixture that show the CT; none where it was not asked.
        records: what was done.
        notes: what the user should know about the model.
    """

    poses: Tensor
    starts: Tensor
    likeliest: Tensor
    records: tuple[StageRecord, ...]
    notes: tuple[str, ...]


def propose(
    pyramid: VolumePyramid,
    views: Sequence[View],
    model: Model,
    starts: Tensor | None,
    spread: MultiStart | None,
    options: LearnedStart,
    seed: int,
    progress: ProgressCallback,
) -> Proposal:
    """Poses that look right to the model.

    Args:
        pyramid: the CT; should be the model's own where the model was trained for one patient (else a note says so).
        views: the X-rays; each is asked for poses, all of them are refined jointly.
        model: on the pyramid's device.
        starts: poses (S, 4, 4) of the first camera, or None to ask the regressor.
        spread: how far about each start poses are drawn; None takes the starts alone.
        options, seed: as of `register`.
        progress: called several times a second.

    Raises:
        InputError: the model's camera does not suit its encoder; there is neither a start nor a regressor.
    """
    size = model.encoder.config.trunk.image_size
    if tuple(model.camera.size_px) != (size, size):
        raise InputError(f"The model's camera has {model.camera.size_px} pixels but its encoder expects {(size, size)}: its card was changed.")
    terms = anchored_terms if is_anchored(pyramid, model) else spherical_terms
    problem = MultiViewProblem(terms(pyramid, views, model))
    proposer = _Proposer(problem, pyramid, views, model, options, progress)
    notes, records = model_notes(model, pyramid) + field_notes(model, problem), []
    if starts is None:
        likeliest, drawn, record = proposer.regressed(options.draws, seed)
        starts, around = likeliest, likeliest[:0]
        records.append(record)
        if not len(drawn.poses):
            missed = "No pose that the model's regressor proposes shows the CT in the X-ray: is it the model of another CT or view?"
            return Proposal(around, around, around, tuple(records), (*notes, missed))
    else:
        around = starts if spread is None else torch.cat([spread_about(start, pyramid.centre, options.draws, spread, seed) for start in starts])
        likeliest, drawn = starts[:0], scored(problem, starts[:0])
        if model.regressor is not None and options.second_opinion:  # the start may be farther off than its spread says
            likeliest, drawn, record = proposer.regressed(options.second_opinion, seed)
            records.append(record)
    poses, record = proposer.refined(around, drawn)
    # The starts go on as well: the intensities judge whether the refinement was one.
    return Proposal(torch.cat((poses, starts)), starts, likeliest, (*records, record), notes)


def spread_about(start: Tensor, centre: Tensor, count: int, options: MultiStart, seed: int) -> Tensor:
    """Poses (count, 4, 4) about a start (4, 4), the start itself first: normal in all six parameters."""
    if count == 1:
        return start[None]
    normal = even_normal(count - 1, 6, seed).to(start.device)
    scale = normal.new_tensor([math.radians(options.rotation_deg)] * 3 + [options.translation_mm] * 3)
    return torch.cat((start[None], retract(start.expand(count - 1, 4, 4), normal * scale, centre)))


def model_notes(model: Model, pyramid: VolumePyramid) -> tuple[str, ...]:
    """What does not fit between a model and the CT it is used on, in words."""
    known = model.card.get("cts")
    if not known:
        return ("The model's card does not say which CT it was trained on: if it is another patient's, expect failure.",)
    here = ct_identity(pyramid.attenuation)
    try:
        reasons = [here.differs_from(CtIdentity.from_dict(values)) for values in known]
    except (KeyError, TypeError, ValueError):
        return ("The model's card describes its CTs in an unknown way: whether it fits this CT could not be checked.",)
    if None in reasons:
        return ()
    names = ", ".join(str(values["name"]) or "unnamed" for values in known)
    if _rendered_otherwise(model, pyramid.attenuation):
        return (
            f"Whether this CT is one that the model was trained on ({names}) could not be checked: another attenuation or other labels of it are "
            "rendered than in training.",
        )
    if len(known) > 1:
        return (f"This CT is none of the {len(known)} that the model was trained on ({names}): expect less than for one of them.",)
    return (f"This CT is not the one that the model was trained on ({names}): {reasons[0]}. A model of one patient does not carry over to another.",)


def field_notes(model: Model, problem: MultiViewProblem) -> tuple[str, ...]:
    """Which X-rays show less of a model's field than any in its training, in words; the problem is on the similarity."""
    least = _least_open(model)
    shares = [term.similarity.open_share for term in problem.terms if isinstance(term.similarity, SphericalSimilarity)]
    return tuple(
        f"{'The X-ray' if len(shares) == 1 else f'X-ray {number}'} shows {share:.0%} of the field of view that the model was trained with, where "
        f"X-rays showed {least:.0%} or more: its poses are less certain. A model for smaller detectors is trained with `--field`."
        for number, share in enumerate(shares, 1)
        if share < least
    )


def _least_open(model: Model) -> float:
    """Least share of the training camera's field that an X-ray of a model's training showed, as its card has the ranges; 0 where it has none."""
    training = model.card.get("training", {})
    look, cameras = training.get("look"), training.get("cameras", {"field": 1.0})  # cards from before cameras were drawn: one for all
    if look is None:
        return 0.0
    collimated = (1 - 2 * look["collimator_depth"]) ** 2
    if look.get("round_share"):  # cards from before collimators could be round have none
        collimated = min(collimated, math.pi * look["round_radius"][0] ** 2)
    return collimated * (cameras["field"] ** 2 / cameras["longer_side"] if cameras["field"] < 1 else 1.0)


def _rendered_otherwise(model: Model, rendered: Attenuation) -> bool:
    """Whether a CT is known not to be rendered as those of the model's training were: by the default attenuation, the model's labels of it."""
    if rendered.model is None:
        return False
    labels, trained = (None if labels is None else set(labels) for labels in (rendered.labels, model.labels))
    return rendered.model != AttenuationModel() or labels != trained


@dataclass(frozen=True)
class _Proposer:
    """What the steps of a proposal share; see `propose`."""

    problem: MultiViewProblem
    pyramid: VolumePyramid
    views: Sequence[View]
    model: Model
    options: LearnedStart
    progress: ProgressCallback

    def regressed(self, count: int, seed: int) -> tuple[Tensor, Scored, StageRecord]:
        """(the poses of the mixtures' components, all draws that show the CT, maybe none; the record)."""
        regressor = self.model.regressor
        if regressor is None:
            raise InputError("The model has no regressor and no initial pose is known; expected one of them.")
        began = time.perf_counter()
        self.progress(Progress("regressor", 0, 1))
        share = -(-count // len(self.views))
        found = []
        for term, view in zip(self.problem.terms, self.views):
            poses = regressed_poses(self.model, view.radiograph, share, seed, self.pyramid.device)
            # The regressor knows poses about the centre of the CT it was trained on; on this CT they turn about this one's.
            found.append(invert(term.camera_from_camera1) @ recentred(poses, regressor.centre.double(), self.pyramid.centre))
        compared = scored(self.problem, self._shown(torch.cat(found)))
        self.progress(Progress("regressor", 1, 1))
        sizes = tuple(term.projector.camera.size_px for term in self.problem.terms)
        score = float(compared.scores[0]) if len(compared.poses) else math.nan
        pose = tuple(compared.poses[:1].cpu().numpy())
        record = StageRecord("regressor", "spherical", sizes, len(compared.poses), 0, time.perf_counter() - began, score, poses=pose)
        components = min(share, regressor.config.components)
        likeliest = self._shown(torch.cat([poses[:components] for poses in found]))
        return likeliest if len(likeliest) else compared.poses[:1], compared, record

    def refined(self, around: Tensor, drawn: Scored) -> tuple[Tensor, StageRecord]:
        """Levenberg-Marquardt from the most similar and mutually different of poses (M, 4, 4) around a start and of those drawn; what has left the
        image on the way is dropped."""
        began, options = time.perf_counter(), self.options
        name = "spherical LM"
        self.progress(Progress(name, 0, options.iterations))
        poses = Scored.merged((scored(self.problem, around), drawn)).poses
        begin = poses[diverse(poses, options.refined, self.pyramid.centre, APART_DEG, APART_MM)]
        lm = LMOptions(max_iterations=options.iterations, cost_tolerance=1e-4, step_tolerance_rad=1e-4, step_tolerance_mm=1e-2)
        found, _, record = refined(self.problem, begin, lm, name, "spherical", began, self.progress)
        poses = self._shown(found.pose)
        return poses if len(poses) else begin, record

    def _shown(self, poses: Tensor) -> Tensor:
        """Those of poses (B, 4, 4) at which the CT is in the X-rays."""
        return poses[visible_in_all(self.views, poses, self.pyramid.corners)]
