"""What a registration is told: its stages, its multi-start and what a model does."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError
from ..imaging.attenuation import AttenuationModel
from ..similarity.named import SIMILARITIES


def _check_similarity(name: str) -> None:
    if name not in SIMILARITIES:
        raise InputError(f"Unknown similarity {name!r}; expected one of {', '.join(SIMILARITIES)}.")


@dataclass(frozen=True)
class Stage:
    """One resolution of the coarse-to-fine search.

    Attributes:
        image_px: pixels along the longer side of the part of the X-ray where the CT can appear.
        similarity: one of `similarity.named.SIMILARITIES`.
        iterations: of Levenberg-Marquardt, at most; 0 only compares the poses (and depths), which leaves the stage out of the way to the result.
        hypotheses: how many poses enter, the best of the stage before.
        depths_mm: shifts along the central ray at which each hypothesis is compared first, keeping the best. One view hardly shows depth, so that
            coarse stages drift along it, and Levenberg-Marquardt comes back slowly. Not used with several views.
        cost_tolerance: see `optimization.levenberg_marquardt.LMOptions`. Sampling noise makes up to 1e-3 of the cost: a stage that others follow
            need not look closer.
    """

    image_px: int
    similarity: str = "patch_gradient_ncc"
    iterations: int = 15
    hypotheses: int = 1
    depths_mm: tuple[float, ...] = ()
    cost_tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.image_px < 16 or self.iterations < 0 or self.hypotheses < 1:
            raise InputError(
                f"A stage has {self.image_px} pixels, {self.iterations} iterations and {self.hypotheses} hypotheses; expected at least 16, 0 and 1."
            )
        if not self.cost_tolerance >= 0:
            raise InputError(f"A stage has a cost tolerance of {self.cost_tolerance}; expected a relative decrease, 0 or more.")
        _check_similarity(self.similarity)


@dataclass(frozen=True)
class MultiStart:
    """Screened multi-start: many poses about the start are compared with the X-ray at low resolution, the better ones again at a higher one, and
    the best go on to the first stage.

    Attributes:
        poses: how many orientations and depths are rendered, per start; each is compared at all shifts at once.
        finalists: how many of them are compared again; 0 spares the second round.
        rotation_deg: standard deviation of the orientation about each world axis.
        translation_mm: standard deviation of the shift along each world axis.
        image_px: see `Stage`; of the first round.
        finalist_px: of the second.
        similarity: see `Stage`.
    """

    poses: int = 400
    finalists: int = 100
    rotation_deg: float = 10.0
    translation_mm: float = 10.0
    image_px: int = 64
    finalist_px: int = 96
    similarity: str = "patch_gradient_ncc"

    def __post_init__(self) -> None:
        if self.poses < 1 or self.finalists < 0 or min(self.image_px, self.finalist_px) < 16:
            raise InputError(
                f"A multi-start has {self.poses} poses, {self.finalists} finalists and images of {self.image_px} and {self.finalist_px} pixels; "
                "expected at least 1, 0 and 16."
            )
        if not 0 <= self.rotation_deg <= 180 or not 0 <= self.translation_mm <= 1000:
            raise InputError(
                f"A multi-start spreads over {self.rotation_deg} deg and {self.translation_mm} mm; expected 0 to 180 deg and 0 to 1000 mm."
            )
        _check_similarity(self.similarity)


@dataclass(frozen=True)
class LearnedStart:
    """What a model does before the intensity stages: many poses, the better ones refined on the spherical similarity, the best handed on.

    Attributes:
        draws: poses that are compared first: from the regressor's mixture where no initial pose is known (its components, then draws from them),
            else spread about each start as wide as the multi-start is.
        second_opinion: poses of the regressor that are compared as well where there is a start, which may be farther off than it is thought to be;
            0 spares them.
        refined: how many of them, the best by spherical similarity, Levenberg-Marquardt refines.
        iterations: of Levenberg-Marquardt, at most; 0 leaves it out, and the poses go on as they are.
        keep: how many mutually different poses, the best by the first stage's intensity similarity, go on.
        search: screened multi-start about each of these where the model was asked for a start; None goes straight to the first stage. (About a start
            that is given, the multi-start is made as without a model, and these poses go on beside what it finds.)
    """

    draws: int = 32
    second_opinion: int = 8
    refined: int = 2
    iterations: int = 3
    keep: int = 2
    search: MultiStart | None = None

    def __post_init__(self) -> None:
        if min(self.draws, self.refined, self.keep) < 1 or self.iterations < 0:
            raise InputError(
                f"A learned start has {self.draws} draws, {self.refined} refined, {self.iterations} iterations and keeps {self.keep}; "
                "expected at least 1, 1, 0 and 1."
            )
        if self.second_opinion < 0:
            raise InputError(f"A learned start asks for {self.second_opinion} poses as a second opinion; expected at least 0.")


DEPTHS_MM = (-24.0, -16.0, -8.0, 0.0, 8.0, 16.0, 24.0)

DEFAULT_STAGES = (
    Stage(80, "patch_gradient_ncc", 10, hypotheses=6, cost_tolerance=1e-3),
    Stage(128, "patch_gradient_ncc", 20, hypotheses=3, depths_mm=DEPTHS_MM, cost_tolerance=1e-3),
    Stage(256, "fine_gradient_ncc", 25, hypotheses=1, depths_mm=DEPTHS_MM[2:5]),
)
"""Most searches end before their last iteration; a round head, whose turning looks like shifting, needs them. The last one looks
through a narrower window: scatter and beam hardening, which no DRR has, bias it less in depth."""

WIDE = MultiStart(poses=400, finalists=50, image_px=48, rotation_deg=15.0, translation_mm=40.0)
"""For a start that is only a named view."""

CLOSER = MultiStart(poses=200, finalists=50, rotation_deg=6.0, translation_mm=10.0, image_px=80, finalist_px=80)
"""For a pose that is near, but at which the stages have not settled."""

SECOND = MultiStart(poses=600, finalists=200, rotation_deg=15.0, translation_mm=20.0)
"""For an initial pose, or a model's, that was farther off than thought."""


@dataclass(frozen=True)
class RegistrationOptions:
    """How to register.

    Attributes:
        stages: from coarse to fine.
        multi_start: search about an initial pose that is given; None starts from it alone, and makes none of the further searches about it either.
        wide_start: search about each named view: where no initial pose is known, and where a model's poses do not show the CT or led to a low score.
        closer_start: search about the pose that was found, where the stages have not settled (the score is lost on the finest images, see
            `stuck_below`, or the cost still fell when the last stage's iterations were used up), and all of them from there, as long as it gets
            better; None spares it.
        second_start: search about the poses that were started from, where what was found is doubtful. Not the first at once: a search over a wider
            field sees a small bone with fewer pixels, and takes longer. Not made about named views alone, whose search was wide at once. None spares
            it, and what else is done about a doubtful result with a model: its regressor's poses in the place of a start that was given, the named
            views after its poses.
        scored_by: similarity whose score a result has, on the last stage's images: comparable whatever that stage optimises.
        stuck_below: the stages have not settled where the score on the finest images is below this share of that on the coarser ones before (which
            needs two stages, one of them by `scored_by`): what looks right from afar only is no minimum.
        doubtful_score: what was found is doubtful where its score is below this, or where its cost still fell when the last stage's iterations were
            used up. The better result is kept, and a note says where it is doubtful in the end.
        doubtful_below: and where its score is below this share of that on the coarser images, in spite of the closer search.
        learned: what a model does before the stages, where one is given.
        attenuation: from Hounsfield units to attenuation.
        labels: labels of the CT that are rendered (one bone of several); None renders all of it.
    """

    stages: tuple[Stage, ...] = DEFAULT_STAGES
    multi_start: MultiStart | None = field(default_factory=MultiStart)
    wide_start: MultiStart = WIDE
    closer_start: MultiStart | None = CLOSER
    second_start: MultiStart | None = SECOND
    scored_by: str = "patch_gradient_ncc"
    stuck_below: float = 0.75
    doubtful_score: float = 0.3
    doubtful_below: float = 0.65
    learned: LearnedStart = field(default_factory=LearnedStart)
    attenuation: AttenuationModel = field(default_factory=AttenuationModel)
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:  # numpy's integers, as labels read off a map are, cannot be written to result.json
            object.__setattr__(self, "labels", tuple(int(label) for label in self.labels))
        if not self.stages:
            raise InputError("A registration has no stages; expected at least one.")
        _check_similarity(self.scored_by)
