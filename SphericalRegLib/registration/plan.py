"""What a registration does: where it begins, the search made about that, and what follows where the result is doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.rigid import checked_rigid
from ..geometry.views import NAMED_VIEWS, named_view
from ..imaging.case import View
from ..imaging.radiograph import Radiograph
from .options import MultiStart, RegistrationOptions
from .region import visible_in_all
from .resolution import VolumePyramid
from .result import StageRecord

if TYPE_CHECKING:
    from .proposals import Proposal


class Doubt(Enum):
    """Why what was found may be wrong."""

    LOW = "its similarity is low"
    LOST = "much of its similarity is lost on the finest images"
    UNSETTLED = "its cost still fell when the iterations were used up"


@dataclass(frozen=True)
class Round:
    """One whole attempt.

    Attributes:
        poses: (B, 4, 4) of the first camera, that the search is made about.
        search: None goes straight to the stages.
        initial: (S, 4, 4), what a user is told that it began from.
        beside: poses (C, 4, 4) that enter the first stage beside what the search finds.
        words: for the note, where this is not the first round.
        answers: the doubts about what was found before that this round is made for.
    """

    poses: Tensor
    search: MultiStart | None
    initial: Tensor
    beside: Tensor
    words: str = ""
    answers: tuple[Doubt, ...] = tuple(Doubt)


@dataclass(frozen=True)
class Plan:
    """What a registration does.

    Attributes:
        first: the first round.
        further: rounds that follow as long as what was found is doubtful.
        closer: the search about an end where the stages have not settled, in each of the rounds.
        notes: what to tell the user.
        records: what was done already.
    """

    first: Round
    further: tuple[Round, ...]
    closer: MultiStart | None
    notes: tuple[str, ...] = ()
    records: tuple[StageRecord, ...] = ()

    def beside(self, proposal: Proposal, ranked: Tensor, options: RegistrationOptions) -> Plan:
        """With the best (B, 4, 4) of what a model proposes about the same starts beside whatever a search finds. Where that leads nowhere, the start
        is farther off than thought: the model's regressor, where there is one, is followed in its place before the search is widened."""
        first, *further = (replace(round_, beside=ranked) for round_ in (self.first, *self.further))
        if _wanted(options) and len(proposal.likeliest):
            words = "the model's regressor was followed in the start's place"
            further.insert(0, Round(proposal.likeliest, options.learned.search, first.initial, ranked[:0], words))
        return replace(self, first=first, further=tuple(further), notes=self.notes + proposal.notes, records=proposal.records)

    def after_asking_in_vain(self, proposal: Proposal) -> Plan:
        """This plan, the named views, where no pose of the model's regressor shows the CT."""
        return replace(self, notes=self.notes + proposal.notes, records=proposal.records)

    def after_asking(self, proposal: Proposal, ranked: Tensor, options: RegistrationOptions) -> Plan:
        """From the best (B, 4, 4) of a model's poses alone. This plan's own first round, the named views, is what is left where they lead nowhere."""
        first = Round(ranked, options.learned.search, proposal.starts, ranked[:0])
        # No start was given, so that what is wanted about one (`multi_start`) does not count.
        further = (_widened(first, options.second_start), replace(self.first, answers=(Doubt.LOW,))) if options.second_start is not None else ()
        notes = ("Initial pose: none was given; the model's regressor proposed it.", *proposal.notes)
        return replace(self, first=first, further=further, notes=notes, records=proposal.records)


def plan_from(initial: Any, views: Sequence[View], pyramid: VolumePyramid, options: RegistrationOptions) -> Plan:
    """The plan without a model, of `register`'s arguments; raises InputError as that says."""
    if initial is None or isinstance(initial, str):
        names, poses = _named(NAMED_VIEWS if initial is None else (initial,), views, pyramid)
        which = f"the named view{'s' if len(names) > 1 else ''} {', '.join(names)}"
        first = Round(poses, options.wide_start, poses, poses[:0], f"{which} {'were' if len(names) > 1 else 'was'} searched, as without a model")
        return Plan(first, (), options.closer_start, (f"Initial pose: no matrix was given; searched around {which}.",))  # wide at once
    given = initial.detach().cpu().numpy() if isinstance(initial, Tensor) else initial
    start = torch.from_numpy(checked_rigid(given, "The initial pose")).to(pyramid.device)[None]
    first = Round(start, options.multi_start, start, start[:0])
    further = (_widened(first, options.second_start),) if _wanted(options) else ()
    return Plan(first, further, None if options.multi_start is None else options.closer_start)


def _wanted(options: RegistrationOptions) -> bool:
    """Whether anything further is to be done where the result about a start that was given is doubtful."""
    return options.multi_start is not None and options.second_start is not None


def _widened(first: Round, search: MultiStart | None) -> Round:
    """The round from the same poses with a wider search."""
    return replace(first, search=search, words="a wider search was made")


def _named(names: Sequence[str], views: Sequence[View], pyramid: VolumePyramid) -> tuple[Sequence[str], Tensor]:
    """The named views that show the CT, and their poses (S, 4, 4); all of them where none does: the check of the starts says what is wrong."""
    first = views[0].radiograph
    poses = torch.stack([named_view(name, first.camera, pyramid.centre, first.sod_fraction) for name in names]).to(pyramid.device)
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
        relation = checked_rigid(view.camera_from_camera1, f"camera_from_camera1 of X-ray {number}")
        given[number - 1] = replace(view, camera_from_camera1=relation)
    if np.abs(given[0].camera_from_camera1 - np.eye(4)).max() > 1e-9:
        raise InputError("camera_from_camera1 of the first X-ray must be the identity.")
    return tuple(given)
