"""The learned stages: poses from the regressor, refined by Levenberg-Marquardt on the spherical similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.metric import Places
from ..geometry.se3 import orthonormalise
from ..imaging.case import View
from ..imaging.radiograph import Radiograph
from ..models.canonical import resample_to_camera
from ..models.checkpoint import Model
from ..rendering.projector import Projector
from ..similarity.named import similarity
from ..similarity.spherical import SphericalSimilarity, anchored_jacobian, embedding_residual
from .problem import ViewTerm
from .resolution import VolumePyramid

NEAR_RAD = 0.5
"""Embeddings that were trained to lie at their places do so within 0.2 (six models); those of another CT (0.8) or of no training lie farther away."""


def regressed_poses(model: Model, radiograph: Radiograph, count: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Poses (count, 4, 4) float64 drawn from the regressor's mixture for one X-ray, the components' own poses first, the likeliest leading.

    Raises:
        InputError: the model has no regressor.
    """
    if model.regressor is None:
        raise InputError("The model has no regressor; expected one, or an initial pose.")
    image, mask = resample_to_camera(radiograph, model.camera, device)
    mixture = model.regressor(image[None, None], mask[None, None])
    order = mixture.weight[0].argsort(descending=True)
    poses = orthonormalise(mixture.pose[0, order].double())
    if count <= len(poses):
        return poses[:count]
    generator = torch.Generator().manual_seed(seed)
    return torch.cat((poses, mixture.sample(count - len(poses), model.regressor.centre, generator)))


def spherical_terms(pyramid: VolumePyramid, views: Sequence[View], model: Model) -> list[ViewTerm]:
    """Each view's part of the spherical similarity: X-ray and DRR in the model's camera."""
    projector, terms = _projector(pyramid, model), []
    for view in views:
        image, mask = resample_to_camera(view.radiograph, model.camera, pyramid.device)
        relation = torch.as_tensor(view.camera_from_camera1, dtype=torch.float64, device=pyramid.device)
        terms.append(ViewTerm(projector, SphericalSimilarity(model.encoder, image, mask), relation))
    return terms


@dataclass(frozen=True)
class AnchoredTerm(ViewTerm):
    """A view's part of the spherical similarity with the Jacobian that its training asked for in the place of the network's own
    (`similarity.spherical.anchored_jacobian`): images are rendered and embedded, and no derivative of either is taken.

    Attributes:
        places: what the embeddings are anchored to, about the CT's centre.
    """

    similarity: SphericalSimilarity
    places: Places

    def residual_and_jacobian(self, camera1_from_world: Tensor) -> tuple[Tensor, Tensor]:
        pose = self.pose(camera1_from_world)
        residual = self.similarity.residual(self.projector.project(pose))
        return residual, anchored_jacobian(self.similarity.embedding, self.places, pose).to(residual)


def anchored_terms(pyramid: VolumePyramid, views: Sequence[View], model: Model) -> list[ViewTerm]:
    """`spherical_terms` with the Jacobian that the model's training asked for.

    Raises:
        InputError: the model's embeddings are anchored to no poses (`Model.places`).
    """
    places = model.places(pyramid.centre)
    if places is None:
        raise InputError("The model's embeddings are anchored to no poses; expected one whose training had the loss `anchor`.")
    terms = spherical_terms(pyramid, views, model)
    return [AnchoredTerm(term.projector, term.similarity, term.camera_from_camera1, places) for term in terms]  # type: ignore[arg-type]


def is_anchored(pyramid: VolumePyramid, model: Model) -> bool:
    """Whether the model's embeddings lie where `Model.places` says: looked up at one pose, for a card tells what a training began with, and not
    whether the encoder had a turn in it."""
    places = model.places(pyramid.centre)
    if places is None:
        return False
    pose = places.reference.to(pyramid.device)[None]
    projector = _projector(pyramid, model)
    embedding = model.encoder(projector.project(pose)[:, None].float(), projector.validity(pose)[:, None].float())
    return float(embedding_residual(places.of(pose)[:, None].expand_as(embedding).to(embedding), embedding).norm()) < NEAR_RAD


def intensity_terms(pyramid: VolumePyramid, views: Sequence[View], model: Model, name: str) -> list[ViewTerm]:
    """The same images as `spherical_terms`, compared by an intensity similarity of that name: what the learned one is measured against."""
    terms = []
    for view, term in zip(views, spherical_terms(pyramid, views, model)):
        image, mask = resample_to_camera(view.radiograph, model.camera, pyramid.device)
        terms.append(ViewTerm(term.projector, similarity(name, image, mask), term.camera_from_camera1))
    return terms


def _projector(pyramid: VolumePyramid, model: Model) -> Projector:
    """The CT through the model's camera, as fine as in training: a pixel's size at the CT."""
    return pyramid.projector(model.camera, 0.75 * max(model.camera.pixel_spacing_mm))
