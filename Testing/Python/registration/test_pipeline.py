"""The whole way from a CT and X-rays to a pose, on a phantom."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import local, retract, transform_points
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import AttenuationModel
from SphericalRegLib.imaging.case import View
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced
from SphericalRegLib.optimization.result import Status
from SphericalRegLib.progress import Cancelled, Progress
from SphericalRegLib.registration import pipeline
from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.plan import as_views, plan_from
from SphericalRegLib.registration.result import RegistrationResult

QUICK = RegistrationOptions(
    stages=(Stage(48, iterations=12, hypotheses=4), Stage(96, iterations=15)),
    multi_start=MultiStart(poses=48, finalists=24, rotation_deg=8.0, translation_mm=10.0, image_px=40, finalist_px=64),
    wide_start=MultiStart(poses=64, finalists=24, rotation_deg=8.0, translation_mm=15.0, image_px=40, finalist_px=64),
)


@pytest.fixture(scope="module")
def pyramid():
    return prepare(phantom.ct())


def start(*delta: float) -> torch.Tensor:
    centre = torch.as_tensor(phantom.ct().centre_ras_mm)
    return retract(phantom.true_pose(), torch.tensor(delta, dtype=torch.float64), centre)


PATCH, FINE = "patch_gradient_ncc", "fine_gradient_ncc"
FAR = start(0.16, -0.12, 0.14, 15.0, -12.0, 14.0)


def test_the_score_is_comparable_whatever_the_last_stage_optimises(pyramid) -> None:
    radiograph, near = phantom.radiograph(phantom.true_pose()), start(0.02, -0.01, 0.02, 2.0, -1.0, 2.0).numpy()

    def found(similarity: str, scored_by: str) -> RegistrationResult:
        stages = (Stage(48), Stage(96, similarity, iterations=20))
        return register(pyramid, radiograph, near, options=RegistrationOptions(stages, multi_start=None, second_start=None, scored_by=scored_by))

    coarse, fine, own = (found(*names) for names in ((PATCH, PATCH), (FINE, PATCH), (FINE, FINE)))
    assert fine.score == pytest.approx(coarse.score, abs=0.02)
    assert fine.stages[-1].similarity == FINE and own.score == pytest.approx(fine.stages[-1].score) != pytest.approx(fine.score)
    np.testing.assert_array_equal(own.camera_from_world, fine.camera_from_world)


def test_recovers_a_pose_under_background_and_noise(pyramid) -> None:
    result = register(pyramid, phantom.radiograph(phantom.true_pose()), FAR.numpy(), options=QUICK)
    assert phantom.target_error(FAR.numpy(), phantom.true_pose()) > 20
    assert phantom.target_error(result.camera_from_world, phantom.true_pose()) < 1.5
    assert 0.5 < result.score <= 1
    assert result.verdict == "uncalibrated" and result.predicted_target_error_mm is None
    np.testing.assert_array_equal(result.hypotheses[0].camera_from_world, result.camera_from_world)
    np.testing.assert_allclose(result.world_from_camera_reference @ FAR.numpy(), np.eye(4), atol=1e-9)
    assert [stage.name for stage in result.stages] == ["search", "refine 48 px", "refine 96 px"]
    assert all(b <= a + 1e-9 for stage in result.stages for a, b in zip(stage.costs, stage.costs[1:]))
    assert np.linalg.eigvalsh(result.covariance).min() > 0
    # Depth is what one view shows worst.
    along = result.camera_from_world[2, :3]
    assert along @ result.covariance[3:, 3:] @ along > 0.8 * np.linalg.eigvalsh(result.covariance[3:, 3:]).max()


def test_multi_start_finds_what_descent_alone_does_not(pyramid) -> None:
    xray = phantom.radiograph(phantom.true_pose())
    far = start(0.30, 0.30, -0.30, 25.0, 20.0, -25.0)
    alone = register(pyramid, xray, far, options=RegistrationOptions(QUICK.stages, multi_start=None))
    assert [stage.name for stage in alone.stages] == ["refine 48 px", "refine 96 px"]
    wide = MultiStart(poses=300, finalists=60, rotation_deg=18.0, translation_mm=20.0, image_px=40, finalist_px=64)
    searched = register(pyramid, xray, far, options=RegistrationOptions(QUICK.stages, multi_start=wide))
    assert phantom.target_error(searched.camera_from_world, phantom.true_pose()) < 1.5
    assert phantom.target_error(alone.camera_from_world, phantom.true_pose()) > 5


def test_a_cost_that_still_falls_brings_on_a_closer_search_and_the_better_result_is_kept(pyramid) -> None:
    xray = phantom.radiograph(phantom.true_pose())
    near = start(0.16, 0.14, -0.16, 3.0, 2.0, -3.0)
    idle = MultiStart(poses=1, finalists=0, rotation_deg=0.0, translation_mm=0.0, image_px=40)  # finds the start, which the stages cannot mend
    stages = tuple(replace(stage, iterations=1) for stage in QUICK.stages)
    cut_off = replace(QUICK, stages=stages, multi_start=idle, second_start=None, stuck_below=0.0)
    closer = MultiStart(poses=64, finalists=24, rotation_deg=8.0, translation_mm=6.0, image_px=48, finalist_px=64)
    once = register(pyramid, xray, near.numpy(), options=replace(cut_off, closer_start=None))
    again = register(pyramid, xray, near.numpy(), options=replace(cut_off, closer_start=closer))
    names = ["search", "refine 48 px", "refine 96 px"]
    assert [stage.name for stage in once.stages] == names
    rounds = len(again.stages) // 3
    assert rounds >= 2 and [stage.name for stage in again.stages] == names * rounds
    assert [("still fell" in note, "closer search" in note, "is doubtful" in note) for note in (*once.notes, *again.notes)] == [
        *((True, False, True),),
        *((True, True, False), (True, False, True)),
    ]
    assert again.score > once.score
    before, after = (phantom.target_error(result.camera_from_world, phantom.true_pose()) for result in (once, again))
    assert after < 0.5 * before
    worse = replace(cut_off, closer_start=replace(idle, rotation_deg=90.0, translation_mm=60.0), stages=QUICK.stages, stuck_below=2.0)
    kept = register(pyramid, xray, again.camera_from_world, options=worse)
    assert kept.score >= again.score, "a search that finds nothing better takes nothing away"


@pytest.mark.parametrize(
    ("status", "costs", "falling"),
    [
        (Status.MAX_ITERATIONS, [90.0, 20.0, 12.0, 11.0, 10.5, 10.3, 10.0], True),
        (Status.MAX_ITERATIONS, [20.0, 10.0], True),  # too few to look back five
        (Status.MAX_ITERATIONS, [90.0, 10.005, 10.004, 10.003, 10.002, 10.001, 10.0], False),  # has crept
        (Status.MAX_ITERATIONS, [10.0], False),
        (Status.CONVERGED_COST, [90.0, 20.0, 12.0, 11.0, 10.5, 10.3, 10.0], False),
    ],
)
def test_a_search_that_was_ended_still_falls_or_has_arrived(status: Status, costs: list[float], falling: bool) -> None:
    best, other = torch.tensor(costs, dtype=torch.float64), torch.linspace(100.0, 50.0, len(costs), dtype=torch.float64)
    history = SimpleNamespace(costs=torch.stack((best, other), dim=1))
    found = SimpleNamespace(status=(status, Status.MAX_ITERATIONS), history=history)
    assert pipeline._Attempt(found, torch.tensor([0.5, 0.4]), 0.5, torch.eye(4)[None], ()).still_falling is falling


def test_what_still_falls_in_the_end_is_doubtful_whatever_its_score(pyramid) -> None:
    """One iteration a stage settles nothing: the closer search is made, then the wider one, and not where none was wanted."""
    xray, stages = phantom.radiograph(phantom.true_pose()), tuple(replace(stage, iterations=1) for stage in QUICK.stages)
    options = replace(QUICK, stages=stages, closer_start=QUICK.multi_start, second_start=QUICK.wide_start)

    def notes(options: RegistrationOptions, initial: torch.Tensor | str = FAR) -> list[str]:
        result = register(pyramid, xray, initial, options=options)
        assert options.multi_start is None or result.score > options.doubtful_score
        assert (result.doubt is not None) == any("is doubtful" in note for note in result.notes)
        return [note.partition(": ")[2] for note in result.notes]

    closer, wider, doubtful = "a closer search began them again.", "a wider search was made.", "look at the images before it is used."
    assert list(dict.fromkeys(notes(options))) == [closer, wider, doubtful]
    assert notes(replace(options, closer_start=None)) == [wider, doubtful]
    assert notes(replace(options, second_start=None)) == [closer, doubtful]
    assert notes(replace(options, multi_start=None)) == [doubtful]
    assert notes(options, "ap")[1:] == [closer, doubtful]  # that search was wide at once
    assert not notes(QUICK)


@pytest.mark.parametrize("stages", [QUICK.stages, (Stage(48, FINE, iterations=12), Stage(96, iterations=15)), QUICK.stages[1:]])
def test_stages_are_stuck_by_the_score_that_the_finest_images_leave_of_the_coarser_ones(pyramid, stages) -> None:
    result = register(pyramid, phantom.radiograph(phantom.true_pose()), FAR.numpy(), options=replace(QUICK, stages=stages))
    assert [stage.name for stage in result.stages].count("search") == 1  # what has converged, and what cannot be compared, is left alone
    ratio = result.score / result.stages[-2].score
    above = replace(QUICK, stages=stages, stuck_below=ratio + 0.01)
    again = register(pyramid, phantom.radiograph(phantom.true_pose()), FAR.numpy(), options=above)
    comparable = stages is QUICK.stages
    assert ([stage.name for stage in again.stages].count("search") > 1) == comparable
    assert any("closer search" in note for note in again.notes) == comparable


def test_what_has_lost_much_of_its_score_is_doubtful(pyramid) -> None:
    options = replace(QUICK, closer_start=None)
    xray = phantom.radiograph(phantom.true_pose())
    found = register(pyramid, xray, FAR, options=options)
    ratio = found.score / found.stages[-2].score
    assert not found.notes
    above, below = (register(pyramid, xray, FAR, options=replace(options, doubtful_below=ratio + by)).notes for by in (-0.01, 0.01))
    assert not above
    assert ["is lost on the finest images" in note for note in below] == [True, True] and "wider search" in below[0] and "is doubtful" in below[1]


def test_a_further_search_that_cannot_be_made_takes_nothing_away(pyramid, monkeypatch: pytest.MonkeyPatch) -> None:
    xray, options = phantom.radiograph(phantom.true_pose()), replace(QUICK, stuck_below=9.0, doubtful_score=2.0)
    first = register(pyramid, xray, FAR.numpy(), options=replace(QUICK, closer_start=None, second_start=None))
    search, calls = pipeline._Run._search, []

    def lost(*args):
        calls.append(args)
        if len(calls) > 1:
            raise InputError("The CT falls outside the image.")
        return search(*args)

    monkeypatch.setattr(pipeline._Run, "_search", lost)
    result = register(pyramid, xray, FAR.numpy(), options=options)
    assert len(calls) == 3  # about the start, closer, wider
    np.testing.assert_array_equal(result.camera_from_world, first.camera_from_world)
    assert len(result.stages) == len(first.stages)
    assert [("could not be made" in note and "falls outside the image" in note) for note in result.notes] == [False, True, False, True, False]


def test_ends_that_cannot_be_compared_leave_the_first(pyramid) -> None:
    """Both ends may lie where the X-ray does not show the CT."""
    away = retract(phantom.true_pose(), torch.tensor([0, 0, 0, 900.0, 0, 0]).double(), pyramid.centre)[None]
    run = pipeline._Run(pyramid, as_views(phantom.radiograph(phantom.true_pose())), QUICK, 0, lambda step: None)
    first, second = (pipeline._Attempt(SimpleNamespace(pose=away), torch.tensor([score]), math.nan, away, ()) for score in (0.1, 0.9))
    kept = run._or_better(first, lambda: second)
    assert kept.scores is first.scores and "could not be made" in kept.notes[0] and "outside the image" in kept.notes[0]


def test_a_search_without_a_spread_in_one_parameter_finds_different_poses(pyramid) -> None:
    """Otherwise all hypotheses would be next to each other, whatever the other parameter's spread."""
    run = pipeline._Run(pyramid, as_views(phantom.radiograph(phantom.true_pose())), QUICK, 0, lambda step: None)
    for spread in ({"rotation_deg": 0.0}, {"translation_mm": 0.0}):
        found, _ = run._search(FAR[None], replace(QUICK.multi_start, **spread), 4)
        for a in range(len(found)):
            for b in range(a):
                delta = local(found[a], found[b], pyramid.centre)
                assert delta[:3].norm() > 1e-4 or delta[3:].norm() > 1e-2
        apart = [local(found[0], other, pyramid.centre) for other in found[1:]]
        assert len(found) == 4
        if "rotation_deg" in spread:
            assert all(delta[3:].norm() >= 0.3 * QUICK.multi_start.translation_mm for delta in apart)
        else:
            assert all(delta[:3].norm() >= math.radians(0.4 * QUICK.multi_start.rotation_deg) for delta in apart)


def test_what_was_rendered_is_recorded_whatever_the_options_say() -> None:
    volume = phantom.volume()
    labels = np.where(volume.hu > 500, 3, 0).astype(np.uint8)
    said = RegistrationOptions((Stage(48, iterations=2),), multi_start=None, second_start=None)
    bone = replace(said, labels=np.array([3]), attenuation=AttenuationModel(energy_kev=70.0, contrast_labels=tuple(np.array([3]))))
    xray = phantom.radiograph(phantom.true_pose())
    prepared = prepare(replace(volume, labels=labels), replace(bone, attenuation=AttenuationModel(energy_kev=70.0)))
    result = register(prepared, xray, phantom.true_pose(), options=said)
    assert result.options["labels"] == (3,) and result.options["attenuation"]["energy_kev"] == 70.0
    by_hand = register(prepare(phantom.ct()), xray, phantom.true_pose(), options=said)
    assert by_hand.options["labels"] is None and by_hand.options["attenuation"]["energy_kev"] == 60.0
    assert json.loads(json.dumps(replace(result, options=asdict(bone)).to_dict()))["options"]["attenuation"]["contrast_labels"] == [3]


def test_a_narrow_mask_is_named_with_its_x_ray(pyramid) -> None:
    xray = phantom.radiograph(phantom.true_pose())
    mask = np.zeros_like(xray.mask)
    mask[:, 50:54] = True
    with pytest.raises(InputError, match=r"X-ray 'phantom\.png': too little .* inside its mask, on the \d+ x \d+ pixels of a stage: .* Expected"):
        register(pyramid, replace(xray, mask=mask), FAR, options=QUICK)


def test_it_can_be_cancelled_before_the_ct_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(report: Progress) -> None:
        assert report.stage == "prepare the CT"
        raise Cancelled

    monkeypatch.setattr(pipeline, "prepare", lambda *_: pytest.fail("it was prepared"))
    with pytest.raises(Cancelled):
        register(phantom.volume(), phantom.radiograph(phantom.true_pose()), FAR, options=QUICK, progress=stop)


def test_without_an_initial_pose_the_named_views_are_tried(pyramid) -> None:
    result = register(pyramid, phantom.radiograph(phantom.true_pose("left")), options=QUICK)
    assert phantom.target_error(result.camera_from_world, phantom.true_pose("left")) < 1.5
    centre = torch.as_tensor(phantom.ct().centre_ras_mm)
    np.testing.assert_allclose(result.initial_camera_from_world, named_view("left", phantom.CAMERA, centre).numpy(), atol=1e-12)
    assert "named views" in result.notes[0] and "left" in result.notes[0]


@pytest.mark.parametrize("sod_mm,at_mm", [(680.0, 680.0), (None, 750.0), (2000.0, 950.0)])
def test_named_views_put_the_ct_where_the_x_ray_says_it_is(pyramid, sod_mm, at_mm) -> None:
    known = GeometryValues(sod_mm=None if sod_mm is None else Sourced(sod_mm, "geometry.json: sod_mm"))
    views = as_views(replace(phantom.radiograph(phantom.true_pose()), known=known))
    for pose in plan_from("ap", views, pyramid, QUICK).first.poses:
        np.testing.assert_allclose(transform_points(pose, pyramid.centre), [0, 0, at_mm], atol=1e-9)


def test_named_views_that_miss_the_ct_are_left_out() -> None:
    """A bone far left of the point that the CT turns about: out of the image from before and behind, in it from the sides."""
    beside = replace(phantom.ct(), centre_ras_mm=phantom.ct().centre_ras_mm + np.array([250.0, 0.0, 0.0]))
    shown = phantom.radiograph(phantom.true_pose("left"))
    with pytest.raises(InputError, match="outside the image"):
        register(beside, shown, "ap", options=QUICK)
    result = register(beside, shown, options=QUICK)
    assert result.notes[0].endswith("named views left, right.")


def test_two_views_fix_the_depth(pyramid) -> None:
    poses = phantom.true_pose("ap"), phantom.true_pose("left")
    relation = (poses[1] @ torch.linalg.inv(poses[0])).numpy()
    views = [View(phantom.radiograph(poses[0]), np.eye(4)), View(phantom.radiograph(poses[1], seed=1), relation)]
    both = register(pyramid, views, FAR, options=QUICK)
    one = register(pyramid, views[0], FAR, options=QUICK)
    assert phantom.target_error(both.camera_from_world, poses[0]) < 0.5
    assert np.linalg.eigvalsh(both.covariance[3:, 3:]).max() < 0.2 * np.linalg.eigvalsh(one.covariance[3:, 3:]).max()


def test_the_same_seed_gives_the_same_pose_and_a_volume_the_same_as_its_pyramid(pyramid) -> None:
    xray = phantom.radiograph(phantom.true_pose())
    results = [register(volume, xray, FAR, options=QUICK, seed=3) for volume in (pyramid, pyramid, phantom.volume())]
    for other in results[1:]:
        np.testing.assert_array_equal(other.camera_from_world, results[0].camera_from_world)
    assert results[0].seed == 3


@pytest.mark.parametrize("after", [1, 4, 9])
def test_it_can_be_cancelled_anywhere(pyramid, after: int) -> None:
    reports: list[Progress] = []

    def callback(report: Progress) -> None:
        reports.append(report)
        assert torch.get_num_threads() == 1
        if len(reports) == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        register(pyramid, phantom.radiograph(phantom.true_pose()), FAR, options=QUICK, progress=callback)
    assert len(reports) == after
    assert all(0 <= report.done <= report.total for report in reports)


def test_result_survives_json(pyramid) -> None:
    result = register(pyramid, phantom.radiograph(phantom.true_pose()), FAR, options=QUICK)
    text = json.dumps(result.to_dict(), allow_nan=False)
    back = RegistrationResult.from_dict(json.loads(text))
    assert back.doubt is None and RegistrationResult.from_dict({**json.loads(text), "doubt": "its score is low"}).doubt == "its score is low"
    assert back.to_dict() == json.loads(text)
    np.testing.assert_array_equal(back.camera_from_world, result.camera_from_world)
    assert set(back.versions) == {"sphericalreg", "torch", "warp-lang", "numpy"}
    with pytest.raises(InputError, match=r"result\.json"):
        RegistrationResult.from_dict({"score": 1})


def test_infinite_variances_become_null(pyramid) -> None:
    values = register(pyramid, phantom.radiograph(phantom.true_pose()), FAR, options=QUICK).to_dict()
    values["covariance"][0][0] = None
    assert math.isnan(RegistrationResult.from_dict(values).covariance[0, 0])
    assert RegistrationResult.from_dict(values).to_dict()["covariance"][0][0] is None


class TestRefusals:
    """Each before any long work: less than a stage would take."""

    xray = phantom.radiograph(phantom.true_pose())

    @pytest.mark.parametrize(
        "initial, message",
        [
            (start(0, 0, 0, 900.0, 0, 0), "outside the image"),
            (torch.diag(torch.tensor([1.0, 1, 2, 1])).double(), "rigid"),
            (np.eye(3), "4 x 4"),
            (np.full((4, 4), np.nan), "finite"),
            ("frontal", "frontal"),
            (object(), "4 x 4"),
            (np.stack([np.eye(4)] * 2), r"\(2, 4, 4\), expected 4 x 4"),
            (np.diag([1.0, -1.0, -1.0, 1.0]), "behind the X-ray source"),
        ],
    )
    def test_of_initial_poses(self, pyramid, initial, message: str) -> None:
        def begun(_: Progress) -> None:
            raise AssertionError("bad input is refused before any long work")

        with pytest.raises(InputError, match=message):
            register(pyramid, self.xray, initial, options=QUICK, progress=begun)

    def test_of_views(self, pyramid) -> None:
        with pytest.raises(InputError, match="no X-ray"):
            register(pyramid, [], FAR)
        with pytest.raises(InputError, match="X-ray 2 does not say where"):
            register(pyramid, [self.xray, self.xray], FAR)
        with pytest.raises(InputError, match="identity"):
            register(pyramid, [View(self.xray, phantom.true_pose().numpy())], FAR)
        with pytest.raises(InputError, match="rigid"):
            register(pyramid, [self.xray, View(self.xray, np.diag([2.0, 2.0, 2.0, 1.0]))], FAR)

    def test_not_of_four_decimals(self, pyramid) -> None:
        rounded = np.round(start(0.3, -0.2, 0.5, 3.0, -4.0, 5.0).numpy(), 4)
        views = as_views([self.xray, View(self.xray, rounded)])
        begin = plan_from(rounded, views, pyramid, QUICK).first.poses[0].numpy()
        for mended in (views[1].camera_from_camera1, begin):
            np.testing.assert_allclose(mended, rounded, atol=1e-4)
            np.testing.assert_allclose(mended[:3, :3].T @ mended[:3, :3], np.eye(3), atol=1e-14)

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda: Stage(4), "16"),
            (lambda: Stage(64, "mi"), "patch_gradient_ncc"),
            (lambda: Stage(64, cost_tolerance=-1.0), "tolerance"),
            (lambda: MultiStart(poses=0), "poses"),
            (lambda: MultiStart(rotation_deg=-1.0), "deg"),
            (lambda: MultiStart(similarity="mi"), "patch_gradient_ncc"),
            (lambda: RegistrationOptions(scored_by="mi"), "patch_gradient_ncc"),
            (lambda: RegistrationOptions(stages=()), "stages"),
        ],
    )
    def test_of_options(self, make, message: str) -> None:
        with pytest.raises(InputError, match=message):
            make()
