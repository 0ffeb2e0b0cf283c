"""The regressor's image loss: its pose should not only lie near the true one but look like it.

A likelihood weighs the six parameters by the spreads that the network gives them; an image weighs them by what they move. The lineage trains its
regressors on both (DiffPose, Gopalakrishnan et al., CVPR 2024: a geodesic distance and the NCC of images and patches).
"""

from __future__ import annotations

import torch
from torch import Tensor

from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.similarity.filters import box_kernel
from SphericalRegLib.similarity.standardize import standardize, standardize_locally

PATCH = box_kernel(13)
FLOOR = 0.1
"""Deviations within a patch below this share of the image's own are damped as noise."""


def image_loss(projector: Projector, camera_from_world: Tensor, true_pose: Tensor) -> Tensor:
    """1 - NCC of DRRs at poses (B, 4, 4) with those at the true ones, the mean of that of the images and of their patches; (B,) in [0, 2].

    Both are DRRs: what makes an X-ray's look differ from a DRR's is none of the pose's business. An image without the CT has an NCC of 0 and no
    gradient.
    """
    images = [projector.project(pose)[:, None] for pose in (camera_from_world, true_pose)]
    weight = (projector.validity(camera_from_world) & projector.validity(true_pose))[:, None].to(images[0])
    shown, wanted = (_features(image, weight) for image in images)
    share = weight / weight.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return 1 - (share * shown * wanted).sum((-2, -1)).mean(1)


def _features(image: Tensor, weight: Tensor) -> Tensor:
    """(B, 2, H, W): the standardised image, and the locally standardised one."""
    whole, _ = standardize(image, weight)
    patches, _ = standardize_locally(image, weight, PATCH, FLOOR)
    return torch.cat((whole, standardize(patches, weight)[0]), dim=1)
