"""Where a registration begins: poses to start from, and the searches that are made about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.se3 import check_rigid, orthonormalise
from ..geometry.views import NAMED_VIEWS, named_view
from ..imaging.case import View
from ..imaging.radiograph import Radiograph
from .options import MultiStart, RegistrationOptions
from .region import visible_in_all
from .resolution import VolumePyramid
from .result import StageRecord

if TYPE_CHECKING:
    from .proposals import Proposal


ASKED = "Initial pose: none was given; the model's regressor proposed it."


@dataclass(frozen=True)
class Further:
    """A search that is made where what was found is doubtful: about poses (S, 4, 4), or those that the first was made about; and a note's words for
    it."""

    words: str
    search: MultiStart
    starts: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """Where a registration begins.

    Attributes:
        starts: poses (S, 4, 4) of the first camera.
        search: about them.
        closer: about an end where the stages have not settled.
        further: made one after the other as long as what was found is doubtful.
        notes: what to tell the user.
        proposed: a model's poses (B, 4, 4).
        asked: the model was asked for poses: they take the starts' place. Else they come beside what the search finds.
        records: what was done already.
    """

    starts: Tensor
    search: MultiStart | None
    closer: MultiStart | None
    further: tuple[Further, ...]
    notes: tuple[str, ...]
    proposed: Tensor | None = None
    asked: bool = False
    records: tuple[StageRecord, ...] = ()

    def beside(self, proposal: Proposal) -> Plan:
        """With what a model proposes about the same starts."""
        return replace(self, proposed=proposal.poses, notes=self.notes + proposal.notes, records=proposal.records)

    def after_asking(self, proposal: Proposal, options: RegistrationOptions) -> Plan:
        """From a model's poses alone; this plan's own starts, the named views, are what is left where they lead nowhere."""
        further = _wider(options)
        named = Further("the named views were searched, as without a model", options.wide_start, self.starts)
        return replace(
            self,
            starts=proposal.starts,
            search=options.learned.search,
            further=(*further, named) if further else (),
            notes=(ASKED, *proposal.notes),
            proposed=proposal.poses,
            asked=True,
            records=proposal.records,
        )


def plan_from(initial: Any, views: Sequence[View], pyramid: VolumePyramid, options: RegistrationOptions) -> Plan:
    """The plan without a model, of `register`'s arguments; raises InputError as that says."""
    if initial is None or isinstance(initial, str):
        names, poses = _named(NAMED_VIEWS if initial is None else (initial,), views, pyramid)
        note = f"Initial pose: no matrix was given; searched around the named view{'s' if len(names) > 1 else ''} {', '.join(names)}."
        return Plan(poses, options.wide_start, options.closer_start, (), (note,))  # nothing further: that search is wide at once
    pose = initial if isinstance(initial, Tensor) else torch.from_numpy(np.array(_numbers(initial)))
    check_rigid(pose, "The initial pose")
    if pose.shape != (4, 4):
        raise InputError(f"The initial pose has shape {tuple(pose.shape)}; expected one camera_from_world (4, 4).")
    start = orthonormalise(pose.to(device=pyramid.device, dtype=torch.float64))[None]
    if options.multi_start is None:
        return Plan(start, None, None, (), ())
    return Plan(start, options.multi_start, options.closer_start, _wider(options), ())


def _wider(options: RegistrationOptions) -> tuple[Further, ...]:
    if options.multi_start is None or options.second_start is None:
        return ()
    return (Further("the search was widened", options.second_start),)


def _named(names: Sequence[str], views: Sequence[View], pyramid: VolumePyramid) -> tuple[Sequence[str], Tensor]:
    """The named views that show the CT, and their poses (S, 4, 4); all of them where none does: the check of the starts says what is wrong."""
    poses = torch.stack([named_view(name, views[0].radiograph.camera, pyramid.centre) for name in names]).to(pyramid.device)
    shown = visible_in_all(views, poses, pyramid.corners)
    if not bool(shown.any()):
        return names, poses
    return tuple(name for name, usable in zip(names, shown.tolist()) if usable), poses[shown]


def as_views(radiographs: Radiograph | View | Sequence[Radiograph | View]) -> tuple[View, ...]:
    """The X-rays of `register` as views, the first the one that poses are about; raises InputError where they are not related."""
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


def _numbers(values: Any) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"The initial pose is {values!r}; expected a 4 x 4 matrix camera_from_world or a view's name.") from None
