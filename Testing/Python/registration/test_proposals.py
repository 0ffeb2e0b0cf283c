"""The learned stages in the pipeline. The networks here are untrained: an encoder of random weights is a similarity all the same near the truth, and
a regressor of random weights proposes poses about its reference."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import AttenuationModel, attenuation
from SphericalRegLib.imaging.case import View
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor, RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.progress import Cancelled, Progress
from SphericalRegLib.registration.learned import anchored_terms, is_anchored, spherical_terms
from SphericalRegLib.registration.options import LearnedStart, MultiStart, RegistrationOptions, Stage
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.problem import MultiViewProblem
from SphericalRegLib.registration.proposals import field_notes, model_notes, propose, spread_about
from SphericalRegLib.similarity.spherical import SphericalSimilarity, embedding_residual
from SphericalRegLib.training.camera import CameraRange
from SphericalRegLib.training.options import TrainingOptions

CAMERA = Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5))
TRUNK = TrunkConfig(image_size=32, width=32, blocks=1)
NARROW = MultiStart(poses=40, finalists=24, rotation_deg=8.0, translation_mm=10.0, image_px=40, finalist_px=64)
QUICK = RegistrationOptions(
    stages=(Stage(48, iterations=10, hypotheses=4), Stage(96, iterations=12)),
    multi_start=MultiStart(poses=1, rotation_deg=4.0, translation_mm=4.0),
    learned=LearnedStart(draws=24, refined=6, iterations=6, keep=3, search=NARROW),
)
CENTRE = torch.as_tensor(phantom.ct().centre_ras_mm)


@pytest.fixture(scope="module")
def pyramid():
    return prepare(phantom.ct())


@pytest.fixture(scope="module")
def xray():
    return phantom.radiograph(phantom.true_pose())


def make_model(regressor: bool = True, **card) -> Model:
    torch.manual_seed(1)
    encoder = SphericalEncoder(EncoderConfig(TRUNK, elements=8)).eval().requires_grad_(False)
    reference = retract(phantom.true_pose(), torch.tensor([0.05, 0.0, -0.05, 5.0, 0.0, 5.0]).double(), CENTRE)
    made = PoseRegressor(RegressorConfig(TRUNK, components=2), reference, CENTRE).eval().requires_grad_(False) if regressor else None
    return Model(encoder, made, CAMERA, {"cts": [ct_identity(phantom.ct(), "phantom").to_dict()], **card})


def test_no_initial_pose_is_needed(pyramid, xray) -> None:
    result = register(pyramid, xray, model=make_model(), options=QUICK)
    assert phantom.target_error(result.camera_from_world, phantom.true_pose()) < 1.5
    assert [stage.name for stage in result.stages] == ["regressor", "spherical LM", "search", "refine 48 px", "refine 96 px"]
    regressor, spherical = result.stages[:2]
    assert regressor.hypotheses == 24 and spherical.hypotheses <= 6
    assert spherical.image_px == ((32, 32),) and spherical.similarity == "spherical"
    assert spherical.score >= regressor.score
    assert "regressor proposed it" in result.notes[0] and len(result.notes) == 1
    again = register(pyramid, xray, model=make_model(), options=QUICK)
    np.testing.assert_array_equal(again.camera_from_world, result.camera_from_world)


def test_stages_are_optional(pyramid, xray) -> None:
    start = retract(phantom.true_pose(), torch.tensor([0.03, -0.03, 0.03, 3.0, -3.0, 3.0]).double(), CENTRE)
    straight = replace(QUICK, multi_start=None, learned=replace(QUICK.learned, search=None))
    with_start = register(pyramid, xray, start, model=make_model(regressor=False), options=straight)
    assert [stage.name for stage in with_start.stages] == ["spherical LM", "refine 48 px", "refine 96 px"]
    assert phantom.target_error(with_start.camera_from_world, phantom.true_pose()) < 1.5
    np.testing.assert_allclose(with_start.initial_camera_from_world, start.numpy(), atol=1e-12)
    named = register(pyramid, xray, "ap", model=make_model(), options=replace(straight, learned=replace(straight.learned, second_opinion=0)))
    assert [stage.name for stage in named.stages[:2]] == ["spherical LM", "search"] and "named view ap" in named.notes[0]
    asked = register(pyramid, xray, model=make_model(), options=straight)
    assert [stage.name for stage in asked.stages] == ["regressor", "spherical LM", "refine 48 px", "refine 96 px"]
    without = register(pyramid, xray, model=make_model(regressor=False), options=straight)
    assert "named views" in without.notes[0]


def test_stages_without_iterations_leave_poses_as_they_are(pyramid, xray) -> None:
    start = retract(phantom.true_pose(), torch.tensor([0.03, -0.03, 0.03, 3.0, -3.0, 3.0]).double(), CENTRE)
    quiet = replace(QUICK, multi_start=None, closer_start=None, second_start=None)
    nothing = replace(quiet, stages=(Stage(96, iterations=0),), learned=LearnedStart(draws=1, iterations=0))
    left_out = register(pyramid, xray, start, options=nothing)
    np.testing.assert_array_equal(left_out.camera_from_world, start.numpy())
    assert [stage.iterations for stage in left_out.stages] == [0] and 0 < left_out.score < 1
    compared = register(pyramid, xray, start, model=make_model(regressor=False), options=nothing)  # at several depths, as a model's poses are
    np.testing.assert_array_equal(compared.camera_from_world[:3, :3], start.numpy()[:3, :3])
    assert [stage.iterations for stage in compared.stages] == [0, 0] and compared.score >= left_out.score
    model_alone = replace(nothing, learned=LearnedStart(draws=1, refined=1, iterations=6, keep=1))
    refined = register(pyramid, xray, start, model=make_model(regressor=False), options=model_alone)
    assert refined.stages[0].iterations > 0 and refined.stages[1].iterations == 0
    assert phantom.target_error(refined.camera_from_world, phantom.true_pose()) < phantom.target_error(start.numpy(), phantom.true_pose())
    regressor_alone = register(pyramid, xray, model=make_model(), options=nothing)
    assert [stage.name for stage in regressor_alone.stages] == ["regressor", "spherical LM", "refine 96 px"]
    intensities_alone = register(pyramid, xray, model=make_model(), options=replace(QUICK, multi_start=None, learned=LearnedStart(iterations=0)))
    assert phantom.target_error(intensities_alone.camera_from_world, phantom.true_pose()) < 1.5


def test_the_regressor_is_asked_about_a_start_as_well(pyramid, xray) -> None:
    """A start far off, which the regressor's proposals replace; one that is better than they are, which they do not."""
    far = retract(phantom.true_pose(), torch.tensor([0.9, -0.8, 0.7, 30.0, -30.0, 30.0]).double(), CENTRE)
    asked = register(pyramid, xray, far, model=make_model(), options=QUICK)
    assert [stage.name for stage in asked.stages[:2]] == ["regressor", "spherical LM"] and asked.stages[0].hypotheses == 8
    assert phantom.target_error(asked.camera_from_world, phantom.true_pose()) < 1.5
    np.testing.assert_allclose(asked.initial_camera_from_world, far.numpy(), atol=1e-12)
    blind = make_model()
    blind.regressor.reference[2, 3] = -700.0
    alone = register(pyramid, xray, phantom.true_pose(), model=blind, options=QUICK)
    assert alone.stages[0].hypotheses == 0 and np.isnan(alone.stages[0].score)
    assert phantom.target_error(alone.camera_from_world, phantom.true_pose()) < 1.5


def test_a_model_that_knows_nothing_does_not_lead_a_start_astray(pyramid, xray) -> None:
    """About a start the search is made as without a model: the model's poses come beside what it finds."""
    start = retract(phantom.true_pose(), torch.tensor([0.08, -0.06, 0.07, 6.0, -5.0, 8.0]).double(), CENTRE)
    options = replace(QUICK, multi_start=NARROW)
    blind = make_model()
    blind.regressor.reference[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ blind.regressor.reference[:3, :3]  # head down
    with torch.no_grad():
        blind.encoder.head.weight.zero_()  # everything looks alike
    without, misled = (register(pyramid, xray, start, model=model, options=options) for model in (None, blind))
    assert [stage.name for stage in misled.stages] == ["regressor", "spherical LM", "search", "refine 48 px", "refine 96 px"]
    narrow = replace(options, stages=(replace(QUICK.stages[0], hypotheses=1), QUICK.stages[1]))
    squeezed = register(pyramid, xray, start, model=blind, options=narrow)
    assert squeezed.stages[3].hypotheses > 1, "the search's find enters beside the model's poses, not behind them"
    for result in (without, misled, squeezed):
        assert phantom.target_error(result.camera_from_world, phantom.true_pose()) < 1.5
    spared = replace(options, multi_start=None, stuck_below=9.0, doubtful_score=1.1)  # no search was wanted: a doubtful result brings on none
    assert "search" not in [stage.name for stage in register(pyramid, xray, start, model=blind, options=spared).stages]


def test_where_the_models_poses_lead_nowhere_the_named_views_are_searched(pyramid, xray) -> None:
    """A regressor that sees the patient from his feet: what is found about its poses, narrowly and widely, is doubtful."""
    lost = make_model()
    lost.regressor.reference[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ lost.regressor.reference[:3, :3]
    wide = MultiStart(poses=64, finalists=24, rotation_deg=8.0, translation_mm=15.0, image_px=40, finalist_px=64)
    options = replace(QUICK, wide_start=wide, second_start=NARROW, doubtful_score=0.5)
    result = register(pyramid, xray, model=lost, options=options)
    assert phantom.target_error(result.camera_from_world, phantom.true_pose()) < 1.5
    _, *said = (note.partition(": ")[2] for note in result.notes)
    assert "a wider search was made." in said
    assert said[-1] == "the named views ap, pa, left, right were searched, as without a model."
    np.testing.assert_allclose(result.initial_camera_from_world, named_view("ap", phantom.CAMERA, CENTRE).numpy(), atol=1e-12)
    spared = register(pyramid, xray, model=lost, options=replace(options, second_start=None))
    assert spared.notes[-1].startswith("The result is doubtful (its similarity is low)")
    assert not any("wider search" in note or "named view" in note for note in spared.notes)
    assert phantom.target_error(spared.camera_from_world, phantom.true_pose()) > 5


def test_where_none_of_the_models_poses_shows_the_ct_the_named_views_are_searched(pyramid, xray) -> None:
    blind = make_model()
    blind.regressor.reference[2, 3] = -700.0
    wide = MultiStart(poses=64, finalists=24, rotation_deg=8.0, translation_mm=15.0, image_px=40, finalist_px=64)
    result = register(pyramid, xray, model=blind, options=replace(QUICK, wide_start=wide))
    assert phantom.target_error(result.camera_from_world, phantom.true_pose()) < 1.5
    assert "named views" in result.notes[0] and "another CT or view" in result.notes[1]
    assert [stage.name for stage in result.stages] == ["regressor", "search", "refine 48 px", "refine 96 px"]
    assert result.stages[0].hypotheses == 0


def test_what_is_wanted_about_a_start_does_not_count_where_none_was_given(pyramid, xray) -> None:
    """`multi_start` is about a start: without one, what follows a doubtful result is `second_start`'s and `wide_start`'s."""
    lost = make_model()
    lost.regressor.reference[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ lost.regressor.reference[:3, :3]
    wide = MultiStart(poses=64, finalists=24, rotation_deg=8.0, translation_mm=15.0, image_px=40, finalist_px=64)
    options = replace(QUICK, multi_start=None, wide_start=wide, second_start=NARROW, doubtful_score=0.5)
    result = register(pyramid, xray, model=lost, options=options)
    assert phantom.target_error(result.camera_from_world, phantom.true_pose()) < 1.5
    assert any("named views ap, pa, left, right were searched" in note for note in result.notes)


def test_the_regressor_is_followed_in_the_place_of_a_start_that_leads_nowhere(pyramid, xray) -> None:
    start = retract(phantom.true_pose(), torch.tensor([0.08, -0.06, 0.07, 6.0, -5.0, 8.0]).double(), CENTRE)
    options = replace(QUICK, second_start=NARROW, closer_start=None, doubtful_score=1.1)  # whatever is found

    def said(initial: torch.Tensor | str, model: Model, options: RegistrationOptions = options) -> list[str]:
        result = register(pyramid, xray, initial, model=model, options=options)
        if not isinstance(initial, str):
            np.testing.assert_allclose(result.initial_camera_from_world, initial.numpy(), atol=1e-12)
        return [note.partition(": ")[2] for note in result.notes if "doubtful" in note]

    followed, wider, doubtful = (
        *("the model's regressor was followed in the start's place.", "a wider search was made."),
        "look at the images before it is used.",
    )
    assert said(start, make_model()) == [followed, wider, doubtful]
    assert said("ap", make_model()) == [followed, doubtful]
    assert said(start, make_model(regressor=False)) == [wider, doubtful]
    assert said(start, make_model(), replace(options, second_start=None)) == [doubtful]
    assert said(start, make_model(), replace(options, multi_start=None)) == [doubtful]


def test_named_views_are_searched_for_a_low_score_alone(pyramid, xray) -> None:
    """What still falls, but is like the X-ray, is where the model said: the wider search is made, and no other."""
    stages = tuple(replace(stage, iterations=1) for stage in QUICK.stages)
    result = register(pyramid, xray, model=make_model(), options=replace(QUICK, stages=stages, second_start=NARROW))
    assert result.score > 0.3 and any("wider search" in note for note in result.notes)
    assert not any("named view" in note for note in result.notes)


def test_spherical_stage_comes_nearer(pyramid) -> None:
    """From close by, on an X-ray that is a DRR, even random features lead home."""
    begin = retract(phantom.true_pose(), torch.tensor([[0.06, -0.05, 0.04, 4.0, -5.0, 3.0]]).double(), CENTRE)
    views = [View(phantom.radiograph(phantom.true_pose()), np.eye(4))]
    options = LearnedStart(draws=1, refined=1, iterations=12)
    proposal = propose(pyramid, views, make_model(regressor=False), begin, None, options, 0, lambda step: None)
    assert proposal.poses.shape == (2, 4, 4) and len(proposal.records) == 1  # the refined one, and the start beside it
    before, after = (phantom.target_error(pose.numpy(), phantom.true_pose()) for pose in (begin[0], proposal.poses[0]))
    assert after < 0.6 * before
    record = proposal.records[0]
    assert all(b <= a for a, b in zip(record.costs, record.costs[1:])) and record.iterations >= 1


def test_two_views_are_refined_jointly(pyramid) -> None:
    poses = phantom.true_pose("ap"), phantom.true_pose("left")
    relation = (poses[1] @ torch.linalg.inv(poses[0])).numpy()
    views = [View(phantom.radiograph(poses[0]), np.eye(4)), View(phantom.radiograph(poses[1], seed=1), relation)]
    result = register(pyramid, views, model=make_model(), options=QUICK)
    assert result.stages[0].image_px == ((32, 32), (32, 32))
    assert phantom.target_error(result.camera_from_world, poses[0]) < 1.5


def test_regressed_poses_follow_a_shift_of_the_world(pyramid, xray) -> None:
    """A copy of the CT that lies elsewhere in its own world is the same CT to the model."""
    shift = np.array([37.0, -21.0, 5.0])
    ct = phantom.ct()
    affine = ct.world_from_voxel.copy()
    affine[:3, 3] += shift
    moved = prepare(replace(ct, world_from_voxel=affine, centre_ras_mm=ct.centre_ras_mm + shift))
    result = register(moved, xray, model=make_model(), options=QUICK)
    back = result.camera_from_world.copy()
    back[:3, 3] += back[:3, :3] @ shift
    assert phantom.target_error(back, phantom.true_pose()) < 1.5
    assert len(result.notes) == 1


def test_a_model_of_another_ct_is_named(pyramid) -> None:
    assert model_notes(make_model(), pyramid) == ()
    other = replace(ct_identity(phantom.ct(), "somebody"), mass_mm2=1e9).to_dict()
    (note,) = model_notes(make_model(cts=[other]), pyramid)
    assert "not the one" in note and "somebody" in note and "%" in note
    (note,) = model_notes(make_model(cts=[other, other]), pyramid)
    assert "none of the 2" in note
    assert "does not say" in model_notes(make_model(cts=[]), pyramid)[0]
    assert "unknown way" in model_notes(make_model(cts=[{"name": "x"}]), pyramid)[0]


def test_an_x_ray_of_a_much_smaller_field_than_the_model_s_is_told_of(pyramid, xray) -> None:
    columns, rows = xray.camera.size_px
    small = View(xray.crop(columns // 4, rows // 4, columns // 2, rows // 2), np.eye(4))
    whole = View(xray, np.eye(4))
    before = {"look": {"collimator_depth": 0.2}}  # as the shipped model's card
    since = {**before, "cameras": asdict(CameraRange(0.5))}
    notes = [
        field_notes(model, MultiViewProblem(spherical_terms(pyramid, views, model)))
        for model in (make_model(training=before), make_model(training=since))
        for views in ((whole,), (small,), (whole, small))
    ]
    assert field_notes(make_model(), MultiViewProblem(spherical_terms(pyramid, (small,), make_model()))) == ()  # its card does not say
    assert notes[0] == notes[3] == notes[4] == ()
    (alone,), (beside,) = notes[1], notes[2]
    assert alone.startswith("The X-ray shows 20%") and "36% or more" in alone and "--field" in alone
    assert beside.startswith("X-ray 2 shows 20%") and notes[5] == ()


def test_a_ct_that_is_rendered_otherwise_than_in_training_is_not_called_another_patients() -> None:
    volume = phantom.volume()
    labels = np.where(volume.hu > 500, 3, 0).astype(np.uint8)
    model = make_model(cts=[ct_identity(attenuation(volume), "phantom").to_dict()])
    assert model_notes(model, prepare(volume)) == ()
    for options in (RegistrationOptions(attenuation=AttenuationModel(bone_only=True)), RegistrationOptions(labels=(3,))):
        (note,) = model_notes(model, prepare(replace(volume, labels=labels), options))
        assert "could not be checked" in note and "phantom" in note and "not the one" not in note
    near = RegistrationOptions(attenuation=AttenuationModel(air_below_hu=-900.0))
    assert model_notes(model, prepare(volume, near)) == (), "what is the same CT all the same needs no note"
    other = replace(volume, hu=np.where(np.arange(volume.shape[2]) < 26, volume.hu, np.float32(-1000)))
    assert "not the one" in model_notes(model, prepare(other))[0]


def test_identity_survives_resampling_and_sees_a_crop() -> None:
    volume = phantom.volume()
    whole = ct_identity(attenuation(volume))
    assert ct_identity(attenuation(volume.resample(5.0))).differs_from(whole) is None
    grid = ct_identity(phantom.ct())
    mu, affine = phantom.ct().mu.astype(float), phantom.ct().world_from_voxel
    points = np.stack(np.meshgrid(*(np.arange(n) for n in mu.shape), indexing="ij"), -1).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
    mean = np.average(points, axis=0, weights=mu.ravel())
    np.testing.assert_allclose(grid.offset_mm, mean - phantom.ct().centre_ras_mm, atol=1e-6)
    np.testing.assert_allclose(grid.spread_mm, np.sqrt(np.average((points - mean) ** 2, axis=0, weights=mu.ravel())), rtol=1e-6)
    half = replace(phantom.ct(), mu=np.where(np.arange(mu.shape[2]) < mu.shape[2] // 2, phantom.ct().mu, 0).astype(np.float32))
    assert "%" in (ct_identity(half).differs_from(grid) or "")


def test_spread_starts_with_the_start() -> None:
    spread = spread_about(phantom.true_pose(), CENTRE, 256, MultiStart(rotation_deg=10.0, translation_mm=8.0), seed=0)
    delta = local(phantom.true_pose().expand(256, 4, 4), spread, CENTRE)
    assert delta[0].abs().max() < 1e-9
    np.testing.assert_allclose(delta.std(0).numpy(), [np.deg2rad(10.0)] * 3 + [8.0] * 3, rtol=0.1)


@pytest.mark.parametrize("after", [2, 5])
def test_it_can_be_cancelled_in_the_learned_stages(pyramid, xray, after: int) -> None:
    reports: list[Progress] = []

    def callback(report: Progress) -> None:
        reports.append(report)
        if len(reports) == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        register(pyramid, xray, model=make_model(), options=QUICK, progress=callback)
    assert reports[-1].stage in ("regressor", "spherical LM")


def test_refusals(pyramid, xray) -> None:
    odd = replace(make_model(), camera=Camera(1000.0, (7.0, 7.0), (40, 40), (19.5, 19.5)))
    with pytest.raises(InputError, match="expects"):
        register(pyramid, xray, model=odd, options=QUICK)
    with pytest.raises(InputError, match="outside the image"):
        away = retract(phantom.true_pose(), torch.tensor([0, 0, 0, 900.0, 0, 0]).double(), CENTRE)
        register(pyramid, xray, away, model=make_model(), options=QUICK)
    with pytest.raises(InputError, match="at least 1"):
        LearnedStart(keep=0)
    with pytest.raises(InputError, match="at least 0"):
        LearnedStart(second_opinion=-1)


def test_an_anchored_model_is_searched_with_the_jacobian_of_its_anchors(pyramid) -> None:
    """Residuals as they are; their derivative by the pose in the first camera, in every view."""
    model, relation = make_model(training=asdict(TrainingOptions())), (phantom.true_pose("left") @ torch.linalg.inv(phantom.true_pose("ap"))).numpy()
    views = [View(phantom.radiograph(phantom.true_pose("ap")), np.eye(4)), View(phantom.radiograph(phantom.true_pose("left")), relation)]
    pose = retract(phantom.true_pose("ap"), torch.tensor([[0.1, -0.2, 0.1, 8.0, -9.0, 7.0]]).double(), CENTRE)
    places = model.places(CENTRE)
    for anchored, plain in zip(anchored_terms(pyramid, views, model), spherical_terms(pyramid, views, model)):
        (residual, jacobian), (expected, _) = anchored.residual_and_jacobian(pose), plain.residual_and_jacobian(pose)
        torch.testing.assert_close(residual, expected)
        fixed = plain.similarity.embedding.double()

        for column, size in enumerate([1e-5] * 3 + [1e-3] * 3):
            steps = torch.zeros(2, 6, dtype=torch.float64)
            steps[:, column] = torch.tensor([size, -size])
            lie = places.of(plain.pose(retract(pose.expand(2, 4, 4), steps, CENTRE)))[:, None].expand(-1, fixed.shape[1], -1, -1)
            ahead, behind = embedding_residual(fixed, lie)
            torch.testing.assert_close(jacobian[0, :, column].double(), (ahead - behind) / (2 * size), atol=1e-6, rtol=1e-4)
    with pytest.raises(InputError, match="anchored to no poses"):
        anchored_terms(pyramid, views, make_model())


def test_a_registration_takes_the_anchors_where_embeddings_lie_at_them(pyramid, xray, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(training=asdict(TrainingOptions()))
    assert not is_anchored(pyramid, model) and not is_anchored(pyramid, make_model())  # a card that promises what its encoder does not do
    place = model.places(CENTRE).of(phantom.true_pose()[None])[:, None].expand(1, 8, 2, 4).float()
    monkeypatch.setattr(SphericalEncoder, "forward", lambda self, image, mask=None: place.expand(len(image), -1, -1, -1))
    assert is_anchored(pyramid, model)

    def never(*_):
        raise AssertionError("the network's derivative is not asked for")

    monkeypatch.setattr(SphericalSimilarity, "residual_and_jacobian", never)
    asked = register(pyramid, xray, phantom.true_pose(), model=model, options=QUICK)
    assert [stage.name for stage in asked.stages[:2]] == ["regressor", "spherical LM"]
    assert phantom.target_error(asked.camera_from_world, phantom.true_pose()) < 1.5
