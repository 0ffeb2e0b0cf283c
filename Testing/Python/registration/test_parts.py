"""The registration's parts one by one: the problem and its Jacobian, the search over shifts, coarse volumes, regions."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import local, retract, transform_points
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.registration import screening
from SphericalRegLib.registration.options import MultiStart
from SphericalRegLib.registration.problem import MultiViewProblem, ViewTerm
from SphericalRegLib.registration.region import _cut_before_the_source, at_resolution, crop_to_content, visible
from SphericalRegLib.registration.resolution import VolumePyramid, block_factors, coarsened, content_corners
from SphericalRegLib.registration.screening import best_depths, diverse, screen, spread_poses
from SphericalRegLib.rendering.projector import Projector
from SphericalRegLib.similarity import GlobalNCC, LocalNCC

TRUE = phantom.true_pose()


@pytest.fixture(scope="module")
def projector() -> Projector:
    return Projector(phantom.ct(), phantom.CAMERA.resize(56, 48))


@pytest.fixture(scope="module")
def term(projector: Projector) -> ViewTerm:
    xray, mask = phantom.radiograph(TRUE).resize(56, 48).tensor()
    return ViewTerm(projector, LocalNCC(xray, mask), torch.eye(4, dtype=torch.float64))


def centre() -> torch.Tensor:
    return torch.as_tensor(phantom.ct().centre_ras_mm)


def step(*delta: float) -> torch.Tensor:
    return torch.tensor(delta, dtype=torch.float64)


class TestMotionAlongRays:
    def test_depth_column_follows_the_image_over_millimetres(self, projector: Projector) -> None:
        """Even with samples far apart: their noise along the rays is taken out (rendering.kernel), which would be more than the derivative."""
        rough = Projector(phantom.ct(), phantom.CAMERA.resize(56, 48), step_mm=4.0)
        pose = TRUE[None]
        depth = torch.cat((torch.zeros(3, dtype=torch.float64), TRUE[2, :3]))
        nearer, farther = (projector.project(retract(pose, millimetres * depth[None], centre())) for millimetres in (-3, 3))
        image_change = (farther - nearer) / 6
        jacobian = rough.project_with_jacobian(pose)[1]
        assert (jacobian.double() @ depth - image_change).norm() < 0.25 * image_change.norm()


class TestProblem:
    def test_jacobian_of_two_views_against_central_differences(self, projector: Projector) -> None:
        poses = phantom.true_pose("ap"), phantom.true_pose("left")
        terms = []
        for seed, pose in enumerate(poses):
            fixed, mask = phantom.radiograph(pose, seed).resize(56, 48).tensor()
            fine = Projector(phantom.ct(), projector.camera, step_mm=0.5)
            terms.append(ViewTerm(fine, GlobalNCC(fixed, mask), pose @ torch.linalg.inv(poses[0])))
        problem = MultiViewProblem(terms)
        at = retract(poses[0], step(0.03, -0.02, 0.02, 2, -3, 4), centre())[None]
        residual, jacobian = problem.residual_and_jacobian(at, torch.tensor([0]))
        assert residual.shape == (1, 2 * 56 * 48) and jacobian.shape == (1, 2 * 56 * 48, 6)
        for k, h in enumerate([0.01] * 3 + [1.0] * 3):
            delta = torch.zeros(6, dtype=torch.float64)
            delta[k] = h
            plus, minus = (problem.residual_and_jacobian(retract(at, sign * delta[None], centre()), torch.tensor([0]))[0] for sign in (1, -1))
            difference = (plus - minus)[0] / (2 * h)
            assert (jacobian[0, :, k] - difference).norm() / difference.norm() < 0.1

    def test_score_and_residual_do_not_depend_on_the_batch(self, term: ViewTerm, monkeypatch: pytest.MonkeyPatch) -> None:
        problem = MultiViewProblem([term])
        poses = spread_poses(TRUE, centre(), MultiStart(poses=5), seed=0)
        whole = problem.score(poses)
        residual, _ = problem.residual_and_jacobian(poses, torch.arange(5))
        monkeypatch.setattr("SphericalRegLib.registration.problem.PIXELS_AT_ONCE", 2 * 56 * 48)
        torch.testing.assert_close(problem.score(poses), whole)
        torch.testing.assert_close(problem.residual_and_jacobian(poses, torch.arange(5))[0], residual)
        assert int(whole.argmax()) == 0

    def test_cut_ends_are_left_out(self, projector: Projector, term: ViewTerm) -> None:
        assert term.valid(TRUE[None]) is None
        cut = Attenuation(phantom.ct().mu[:, :, 10:], _shifted(phantom.ct(), 10), phantom.ct().centre_ras_mm, (False,) * 4 + (True, False))
        cut_term = ViewTerm(Projector(cut, projector.camera), term.similarity, term.camera_from_camera1)
        valid = cut_term.valid(TRUE[None])
        assert valid is not None and 0.3 < valid.float().mean() < 0.98
        assert cut_term.over_valid(TRUE[None]).score(TRUE[None]).item() > 0.95 * term.score(TRUE[None]).item()

    @pytest.mark.parametrize("at_once", [1, 100])
    def test_valid_pixels_are_held_where_the_elements_began(self, projector: Projector, term: ViewTerm, at_once: int, monkeypatch) -> None:
        cut = Attenuation(phantom.ct().mu[:, :, 10:], _shifted(phantom.ct(), 10), phantom.ct().centre_ras_mm, (False,) * 4 + (True, False))
        problem = MultiViewProblem([ViewTerm(Projector(cut, projector.camera), term.similarity, term.camera_from_camera1)])
        starts = torch.stack((TRUE, retract(TRUE, step(0.1, -0.05, 0.2, 5.0, 0.0, 30.0), centre())))
        moved = retract(starts, step(0.05, 0.1, 0.0, 0.0, 3.0, -12.0).expand(2, 6), centre())
        (only,) = problem.terms
        valid = only.valid(starts)
        assert valid is not None and not torch.equal(valid[0], valid[1])
        expected = only.similarity.over(valid).residual_and_jacobian(*only.projector.project_with_jacobian(moved))
        monkeypatch.setattr("SphericalRegLib.registration.problem.PIXELS_AT_ONCE", at_once * 56 * 48)
        held, last = problem.holding_valid_at(starts), torch.tensor([1])
        for got, whole, alone, anew in zip(
            held.residual_and_jacobian(moved, torch.arange(2)),
            expected,
            held.residual_and_jacobian(moved[last], last),
            problem.residual_and_jacobian(moved, torch.arange(2)),
        ):
            torch.testing.assert_close(got, whole)
            torch.testing.assert_close(alone, whole[last])
            assert not torch.allclose(got, anew, atol=1e-3)
        expected_score = only.similarity.over(valid).score(only.projector.project(moved))
        torch.testing.assert_close(held.held_score(moved, torch.arange(2)), expected_score)
        torch.testing.assert_close(held.held_score(moved[last], last), expected_score[last])


def _shifted(attenuation: Attenuation, slices: int) -> np.ndarray:
    affine = attenuation.world_from_voxel.copy()
    affine[:3, 3] += slices * affine[:3, 2]
    return affine


class TestScreening:
    def test_spread_is_what_was_asked_for(self) -> None:
        poses = spread_poses(TRUE, centre(), MultiStart(poses=2001, rotation_deg=7.0, translation_mm=9.0), seed=1)
        torch.testing.assert_close(poses[0], TRUE)
        delta = local(TRUE.expand(2000, 4, 4), poses[1:], centre())
        np.testing.assert_allclose(delta[:, :3].std(0).numpy(), math.radians(7.0), rtol=0.02)
        depth = delta[:, 3:] @ TRUE[2, :3]
        assert depth.std().item() == pytest.approx(9.0, rel=0.02)
        assert (delta[:, 3:] - depth[:, None] * TRUE[2, :3]).abs().max() < 1e-9
        torch.testing.assert_close(poses, spread_poses(TRUE, centre(), MultiStart(poses=2001, rotation_deg=7.0, translation_mm=9.0), seed=1))
        assert not torch.equal(poses, spread_poses(TRUE, centre(), MultiStart(poses=2001, rotation_deg=7.0, translation_mm=9.0), seed=2))

    @pytest.mark.parametrize("views", [1, 2])
    def test_a_shifted_start_is_shifted_back(self, projector: Projector, views: int) -> None:
        poses = (phantom.true_pose("ap"), phantom.true_pose("left"))[:views]
        screening = []
        for seed, pose in enumerate(poses):
            fixed, mask = phantom.radiograph(pose, seed).resize(56, 48).tensor()
            screening.append(ViewTerm(projector, LocalNCC(fixed, mask), pose @ torch.linalg.inv(poses[0])))
        shift = TRUE[:3, :3].T @ step(14.0, -17.0, 12.0 if views == 2 else 0.0)
        start = retract(poses[0], torch.cat((torch.zeros(3, dtype=torch.float64), shift)), centre())[None]
        found = screen(screening, start, radius_mm=30.0, pixel_mm=3.0)
        left = local(poses[0], found.poses[0], centre())
        assert left[:3].norm() < 1e-9
        assert left[3:].norm() < (5.5 if views == 2 else 3.5)

    @pytest.mark.parametrize("sizes", [((28, 24), (112, 96)), ((112, 96), (28, 24))])
    def test_views_of_unlike_resolution_are_searched_as_far(self, projector: Projector, sizes) -> None:
        """A shift is more pixels of the finer view than of the coarser one."""
        poses = phantom.true_pose("ap"), phantom.true_pose("left")
        screening_views = []
        for seed, (pose, size) in enumerate(zip(poses, sizes)):
            fixed, mask = phantom.radiograph(pose, seed).resize(*size).tensor()
            view = projector.with_camera(phantom.CAMERA.resize(*size))
            screening_views.append(ViewTerm(view, LocalNCC(fixed, mask), pose @ torch.linalg.inv(poses[0])))
        shift = TRUE[:3, :3].T @ step(18.0, -12.0, 18.0)
        start = retract(poses[0], torch.cat((torch.zeros(3, dtype=torch.float64), shift)), centre())[None]
        found = screen(screening_views, start, radius_mm=36.0, pixel_mm=6.0)
        assert local(poses[0], found.poses[0], centre())[3:].norm() < 7.0
        assert found.scores.item() > 0.5

    def test_a_wide_lattice_of_several_views_stays_small(self, projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
        assert len(screening._lattice(2500.0, 1.0, in_depth=True)) == len(screening._lattice(200.0, 1.0, in_depth=True)) < 700_000
        views = []
        for seed, pose in enumerate((phantom.true_pose("ap"), phantom.true_pose("left"))):
            fixed, mask = phantom.radiograph(pose, seed).resize(56, 48).tensor()
            views.append(ViewTerm(projector, LocalNCC(fixed, mask), pose @ torch.linalg.inv(phantom.true_pose("ap"))))
        starts = spread_poses(TRUE, centre(), MultiStart(poses=7), seed=0)
        whole = screen(views, starts, radius_mm=24.0, pixel_mm=3.0)
        at_once, lattices = [], screening._ShiftSearch.scores

        def scores(self, poses, shifts):
            at_once.append(shifts.shape[0] * shifts.shape[1])
            return lattices(self, poses, shifts)

        monkeypatch.setattr(screening._ShiftSearch, "scores", scores)
        monkeypatch.setattr(screening, "SHIFTS_AT_ONCE", 3000)
        parts = screen(views, starts, radius_mm=24.0, pixel_mm=3.0)
        assert max(at_once) <= 3000
        assert torch.equal(parts.poses, whole.poses) and torch.equal(parts.scores, whole.scores)

    def test_scores_are_those_of_rendering_at_the_shift(self, projector: Projector) -> None:
        """The correlation read from the FFT equals the similarity of a fresh rendering, as far as a shift only moves the image."""
        fixed, mask = phantom.radiograph(TRUE).resize(56, 48).tensor()
        similarity = LocalNCC(fixed, mask)
        view = ViewTerm(projector, similarity, torch.eye(4, dtype=torch.float64))
        starts = spread_poses(TRUE, centre(), MultiStart(poses=6, rotation_deg=6.0, translation_mm=8.0), seed=3)
        found = screen([view], starts, radius_mm=12.0, pixel_mm=3.0)
        assert bool((found.scores[:-1] >= found.scores[1:]).all())
        torch.testing.assert_close(found.scores, similarity.score(projector.project(found.poses)), rtol=0, atol=0.12)

    def test_radius_zero_stays(self, projector: Projector, term: ViewTerm) -> None:
        found = screen([ViewTerm(projector, term.similarity, term.camera_from_camera1)], TRUE[None], 0.0, 3.0)
        torch.testing.assert_close(found.poses[0], TRUE)

    def test_diverse_poses_are_apart(self) -> None:
        poses = spread_poses(TRUE, centre(), MultiStart(poses=60), seed=0)
        kept = diverse(poses, 8, centre(), apart_deg=6.0, apart_mm=6.0)
        assert kept[0] == 0 and len(kept) == 8
        for a in range(8):
            for b in range(a):
                delta = local(poses[kept[a]], poses[kept[b]], centre())
                assert delta[:3].norm() >= math.radians(6.0) or delta[3:].norm() >= 6.0
        assert len(diverse(TRUE.expand(5, 4, 4), 3, centre(), 1.0, 1.0)) == 1

    def test_depth_is_searched_along_the_ray_through_a_point(self, term: ViewTerm) -> None:
        through = centre() + step(20.0, 0.0, -15.0)
        at = transform_points(TRUE, through)
        ray = TRUE[:3, :3].T @ (at / at.norm())
        off = retract(TRUE, torch.cat((torch.zeros(3, dtype=torch.float64), 16.0 * ray)), centre())
        problem = MultiViewProblem([term])
        found, score = best_depths(problem, torch.stack((off, TRUE)), through, (-16.0, -8.0, 0.0, 8.0))
        torch.testing.assert_close(found, torch.stack((TRUE, TRUE)))
        torch.testing.assert_close(score, problem.score(found))

    def test_depths_are_compared_over_the_pixels_that_were_valid_before(self, projector: Projector, term: ViewTerm) -> None:
        cut = Attenuation(phantom.ct().mu[:, :, 10:], _shifted(phantom.ct(), 10), phantom.ct().centre_ras_mm, (False,) * 4 + (True, False))
        problem = MultiViewProblem([ViewTerm(Projector(cut, projector.camera), term.similarity, term.camera_from_camera1)])
        found, score = best_depths(problem, TRUE[None], centre(), (-60.0,))
        torch.testing.assert_close(score, problem.holding_valid_at(TRUE[None]).held_score(found, torch.tensor([0])))
        assert not torch.allclose(score, problem.score(found), atol=1e-3)

    def test_where_no_depth_is_better_a_pose_stays(self, term: ViewTerm) -> None:
        away = retract(TRUE, step(0.0, 0.0, 0.0, 3000.0, 0.0, 0.0), centre())
        found, score = best_depths(MultiViewProblem([term]), away[None], centre(), (-8.0, 8.0, 0.0))
        torch.testing.assert_close(found[0], away)
        assert score.item() == 0.0


class TestCoarseVolumes:
    def test_line_integrals_are_kept(self) -> None:
        fine, coarse = phantom.ct(), coarsened(phantom.ct(), 6.0)
        assert coarse.mu.shape == (24, 20, 26)
        assert coarse.mu.sum() * 8 == pytest.approx(fine.mu.sum(), rel=1e-5)
        camera = phantom.CAMERA.resize(28, 24)
        a, b = (Projector(volume, camera, step_mm=1.5).project(TRUE[None]) for volume in (fine, coarse))
        assert (a - b).norm() / a.norm() < 0.03

    def test_odd_blocks_fill_up_with_air(self) -> None:
        mu = np.ones((9, 16, 24), dtype=np.float32)
        affine = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 1.0, 7], [0, 0, 0, 1]])
        volume = Attenuation(mu, affine, np.array([1.0, 2, 3]), (True,) + (False,) * 5)
        assert block_factors(volume, 3.0) == (1, 1, 3)
        assert block_factors(volume, 4.0) == (1, 2, 3)
        coarse = coarsened(volume, 4.0)
        assert coarse.mu.shape == (9, 8, 8) and coarse.cut_faces == volume.cut_faces
        np.testing.assert_array_equal(coarse.centre_ras_mm, volume.centre_ras_mm)
        first_block = affine @ [0, 0.5, 1.0, 1]
        np.testing.assert_allclose(coarse.world_from_voxel @ [0, 0, 0, 1], first_block)
        partial = coarsened(Attenuation(np.ones((8, 8, 25), np.float32), np.diag([9.0, 9, 1, 1]), np.zeros(3)), 3.0)
        assert partial.mu.shape == (8, 8, 9) and partial.mu[0, 0, -1] == pytest.approx(1 / 3)

    def test_content_box(self) -> None:
        mu = np.zeros((10, 12, 14), dtype=np.float32)
        mu[2:5, 3:11, 6] = 1
        corners = content_corners(Attenuation(mu, np.diag([2.0, 1.0, 1.0, 1.0]), np.zeros(3)))
        np.testing.assert_allclose([corners.min(0), corners.max(0)], [[3.0, 2.5, 5.5], [9.0, 10.5, 6.5]])

    def test_projectors_are_shared(self) -> None:
        pyramid = VolumePyramid(phantom.ct())
        a, b = pyramid.projector(phantom.CAMERA, 6.0), pyramid.projector(phantom.CAMERA.resize(10, 10), 6.2)
        assert a.attenuation is b.attenuation and b.camera.size_px == (10, 10)
        assert pyramid.projector(phantom.CAMERA, 1.0).attenuation is pyramid.attenuation


class TestRegions:
    def test_the_crop_holds_the_projection_and_keeps_the_geometry(self) -> None:
        xray = phantom.radiograph(TRUE)
        corners = centre() + 10 * torch.tensor(np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(8, 3))
        crop = crop_to_content(xray, TRUE[None], corners, margin_mm=6.0)
        assert max(crop.camera.size_px) < 40
        points = transform_points(TRUE, corners)
        pixels = crop.camera.project(points)
        assert bool((pixels >= 2).all()) and bool((pixels <= torch.tensor(crop.camera.size_px) - 3).all())
        offset = torch.tensor(xray.camera.principal_point_px) - torch.tensor(crop.camera.principal_point_px)
        torch.testing.assert_close(xray.camera.project(points) - pixels, offset.double().expand(8, 2))

    def test_a_tiny_region_is_enlarged_inside_the_image(self) -> None:
        xray = phantom.radiograph(TRUE)
        corner = centre() + TRUE[:3, :3].T @ step(-70.0, -60.0, 0.0)
        crop = crop_to_content(xray, TRUE[None], corner.expand(8, 3), 0.0)
        assert all(24 <= pixels <= 25 for pixels in crop.camera.size_px)

    def test_resolution(self) -> None:
        xray = phantom.radiograph(TRUE)
        assert at_resolution(xray, 56).camera.size_px == (56, 48)
        assert at_resolution(xray, 500).camera.size_px == xray.camera.size_px

    def test_a_miss_is_named(self) -> None:
        xray = phantom.radiograph(TRUE)
        corners = torch.from_numpy(content_corners(phantom.ct()))
        aside = retract(TRUE, torch.cat((torch.zeros(3, dtype=torch.float64), TRUE[:3, :3].T @ step(400.0, 0, 0))), centre())
        with pytest.raises(InputError, match=r"X-ray 'phantom\.png': the projection of the CT falls outside"):
            crop_to_content(xray, aside[None], corners, 0.0)
        behind = retract(TRUE, torch.cat((torch.zeros(3, dtype=torch.float64), TRUE[:3, :3].T @ step(0, 0, -1500.0))), centre())
        with pytest.raises(InputError, match="behind the X-ray source"):
            crop_to_content(xray, behind[None], corners, 0.0)

    def test_a_long_ct_whose_far_end_lies_behind_the_source_is_not_refused(self) -> None:
        """What lies in front of the source is looked for where it is projected to."""
        camera = Camera(1000.0, (2.0, 2.0), (100, 100), (49.5, 49.5))
        xray = Radiograph(np.zeros((100, 100), np.float32), np.ones((100, 100), bool), camera, name="steep.png")
        corners = torch.tensor(np.stack(np.meshgrid([-30.0, 30.0], [-30.0, 30.0], [-1500.0, 200.0]), -1).reshape(8, 3))
        pose = torch.eye(4, dtype=torch.float64)
        pose[2, 3] = 700.0  # along the CT: from 800 mm behind the source to 900 mm in front of it
        assert bool(visible(xray, pose[None], corners)[0])
        assert crop_to_content(xray, pose[None], corners, 5.0).camera.size_px == (100, 100), "near the source it covers the image"
        turned = pose.clone()
        turned[:3, :3] = torch.tensor([[1.0, 0, 0], [0, math.cos(0.3), -math.sin(0.3)], [0, math.sin(0.3), math.cos(0.3)]]).double()
        beside = retract(turned, torch.cat((torch.zeros(3, dtype=torch.float64), turned[:3, :3].T @ step(0, 3000.0, 0))), torch.zeros(3).double())
        with pytest.raises(InputError, match="falls outside"):
            crop_to_content(xray, beside[None], corners, 0.0)

    def test_boxes_are_cut_where_they_leave_what_lies_before_the_source(self) -> None:
        corners = torch.tensor(np.stack(np.meshgrid([-1.0, 1.0], [-2.0, 2.0], [-9.0, 11.0]), -1).reshape(1, 8, 3))
        cut = _cut_before_the_source(corners)[0]
        assert cut[:, 2].min() == 1.0 and cut[:, 2].max() == 11.0
        np.testing.assert_allclose([cut.amin(0)[:2].tolist(), cut.amax(0)[:2].tolist()], [[-1, -2], [1, 2]])
