"""The least-squares problem of one or several X-rays in the pose of the CT."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..rendering.projector import Projector
from ..similarity.base import Similarity

PIXELS_AT_ONCE = 2**19
"""Rendered pixels that are worked on at a time: with their six tangent columns and the filters' copies about 150 MB."""


S = TypeVar("S", bound=Similarity)


@dataclass(frozen=True)
class ViewTerm(Generic[S]):
    """One X-ray's part: how it is rendered, how it is compared, and where its camera stands.

    Attributes:
        projector: the CT through this view's camera.
        similarity: bound to this view's X-ray on the same grid.
        camera_from_camera1: (4, 4) float64; the identity for the first view.
    """

    projector: Projector
    similarity: S
    camera_from_camera1: Tensor

    def pose(self, camera1_from_world: Tensor) -> Tensor:
        """This view's camera_from_world (B, 4, 4)."""
        return self.camera_from_camera1 @ camera1_from_world

    def valid(self, camera_from_world: Tensor) -> Tensor | None:
        """Pixels (B, H, W) whose ray does not leave through a cut end of the CT; None if the CT has none."""
        return self.projector.validity(camera_from_world) if any(self.projector.attenuation.cut_faces) else None

    def over_valid(self, camera1_from_world: Tensor) -> ViewTerm:
        """The same of B images, over the pixels that are valid at B poses (B, 4, 4)."""
        valid = self.valid(self.pose(camera1_from_world))
        return self if valid is None else replace(self, similarity=self.similarity.over(valid))

    def of(self, index: Tensor) -> ViewTerm:
        """That of the images `index` (M,) alone."""
        return replace(self, similarity=self.similarity.of(index))

    def residual_and_jacobian(self, camera1_from_world: Tensor) -> tuple[Tensor, Tensor]:
        """r (B, N) and J (B, N, 6).

        A step on the right turns and shifts the CT alike in every camera, so J needs no change of frame.
        """
        return self.similarity.residual_and_jacobian(*self.projector.project_with_jacobian(self.pose(camera1_from_world)))

    def score(self, camera1_from_world: Tensor) -> Tensor:
        """(B,), higher is better."""
        return self.similarity.score(self.projector.project(self.pose(camera1_from_world)))


@dataclass(frozen=True)
class MultiViewProblem:
    """The residuals of all views stacked, in the pose of the CT in the first camera; an `optimization.LeastSquaresProblem`.

    Views enter with equal weight whatever their number of pixels: each residual is scaled to the number of pixels of the first. One whose mask leaves
    out a part enters with the share that is left.

    Which pixels are valid is found anew at each pose.

    Attributes:
        terms: one per view.
    """

    terms: Sequence[ViewTerm]

    def holding_valid_at(self, poses: Tensor) -> HeldProblem:
        """The problem of E elements that start at poses (E, 4, 4)."""
        return HeldProblem(self.terms, tuple(term.over_valid(poses) for term in self.terms))

    @property
    def centre(self) -> Tensor:
        return self.terms[0].projector.centre

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._stacked(*chunk) for chunk in zip(self._chunks(poses), self._chunks(index))]
        return torch.cat([r for r, _ in parts]), torch.cat([j for _, j in parts])

    def score(self, poses: Tensor) -> Tensor:
        """The views' mean score (B,), each over the pixels that are valid at the poses (B, 4, 4)."""
        return torch.cat([self._mean_score([term.over_valid(chunk) for term in self.terms], chunk) for chunk in self._chunks(poses)])

    @staticmethod
    def _mean_score(terms: Sequence[ViewTerm], poses: Tensor) -> Tensor:
        return torch.stack([term.score(poses) for term in terms]).mean(0)

    def _term(self, view: int, poses: Tensor, index: Tensor) -> ViewTerm:
        """A view's part at poses (B, 4, 4) of the elements `index` (B,)."""
        return self.terms[view].over_valid(poses)

    def _stacked(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.terms) == 1:
            return self._term(0, poses, index).residual_and_jacobian(poses)
        residuals, jacobians = [], []
        for view, term in enumerate(self.terms):
            residual, jacobian = self._term(view, poses, index).residual_and_jacobian(poses)
            scale = math.sqrt(_pixels(self.terms[0]) / _pixels(term))
            residuals.append(scale * residual)
            jacobians.append(scale * jacobian)
        return torch.cat(residuals, dim=1), torch.cat(jacobians, dim=1)

    def _chunks(self, elements: Tensor) -> Iterator[Tensor]:
        size = max(1, PIXELS_AT_ONCE // max(_pixels(term) for term in self.terms))
        return iter(elements.split(size))


@dataclass(frozen=True)
class HeldProblem(MultiViewProblem):
    """The same of E elements that are optimised, over the pixels that were valid at their starts: the cost is then one smooth function, and nothing
    is rendered twice. Its `score` is over the pixels that are valid at the poses all the same.

    Attributes:
        held: one term per view, of all elements.
    """

    held: tuple[ViewTerm, ...]

    def held_score(self, poses: Tensor, index: Tensor) -> Tensor:
        """The views' mean score (B,) of poses (B, 4, 4) of the elements `index` (B,), over the pixels that are held for these."""
        parts = zip(self._chunks(poses), self._chunks(index))
        return torch.cat([self._mean_score([self._term(view, *part) for view in range(len(self.terms))], part[0]) for part in parts])

    def _term(self, view: int, poses: Tensor, index: Tensor) -> ViewTerm:
        return self.held[view].of(index)


def _pixels(term: ViewTerm) -> int:
    camera = term.projector.camera
    return camera.columns * camera.rows
