"""A stage of Levenberg-Marquardt from several poses, whatever is compared."""

from __future__ import annotations

import time
from dataclasses import replace

from torch import Tensor

from ..optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from ..optimization.result import OptimizationResult
from ..progress import Progress, ProgressCallback
from .problem import MultiViewProblem
from .result import StageRecord
from .scored import best_first


def refined(
    problem: MultiViewProblem, poses: Tensor, options: LMOptions, name: str, similarity: str, began: float, progress: ProgressCallback
) -> tuple[OptimizationResult, Tensor, StageRecord]:
    """Levenberg-Marquardt from each of the poses.

    Args:
        problem: what is minimised; its score says which end is the best.
        poses: camera_from_world (B, 4, 4) of the first camera.
        options: of the search.
        name, similarity: of the stage, for its record and its progress.
        began: `time.perf_counter()` of when the stage began.
        progress: called at every iteration.

    Returns:
        The ends, best first, their scores (B,), and the record of the best.
    """

    def report(step: Progress) -> None:
        progress(replace(step, stage=name))

    found = levenberg_marquardt(problem, poses, problem.centre, options, report)
    scores = problem.score(found.pose)
    order = best_first(scores)
    found, scores = found.of(order), scores[order]
    record = StageRecord(
        name,
        similarity,
        tuple(term.projector.camera.size_px for term in problem.terms),
        len(poses),
        int(found.iterations.max()),
        time.perf_counter() - began,
        float(scores[0]),
        tuple(found.history.costs[:, 0].tolist()),
        tuple(found.history.poses[:, 0].cpu().numpy()),
    )
    return found, scores, record
