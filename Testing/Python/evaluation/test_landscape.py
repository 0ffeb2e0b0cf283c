"""The landscape: its charts, what the table says of a curve, what is drawn and written."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation.landscape import LandscapeOptions, _charts, basin, landscape, peaks
from SphericalRegLib.evaluation.truth import Truth
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.distances import rotation_angle, so4_pose_distance
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.imaging.case import Case, View
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.progress import Cancelled, Progress
from SphericalRegLib.visualization.landscape import Line, Plane, line_figure, normalised, plane_figure

CENTRE = torch.as_tensor(phantom.ct().centre_ras_mm)
SMALL = LandscapeOptions(20.0, 30.0, line_points=9, plane_points=5, similarities=("ncc", "gradient_ncc"))


@pytest.fixture(scope="module")
def done():
    torch.manual_seed(1)
    trunk = TrunkConfig(image_size=32, width=32, blocks=1)
    encoder = SphericalEncoder(EncoderConfig(trunk, elements=8)).eval().requires_grad_(False)
    model = Model(encoder, None, Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5)))
    case = Case(Path("somewhere/phantom"), phantom.volume(), (View(phantom.radiograph(phantom.true_pose()), np.eye(4)),))
    return landscape(case, Truth(phantom.true_pose().numpy(), np.zeros((1, 3))), model, SMALL)


def test_charts_begin_at_the_truth_and_measure_the_same_way_off() -> None:
    pose = phantom.true_pose()
    se3, so4 = _charts(pose, CENTRE, SMALL)
    for chart in (se3, so4):
        assert torch.allclose(chart.poses(torch.zeros(1, 6).double())[0], pose, atol=1e-9)
    turned = se3.poses(torch.eye(6).double())
    assert torch.allclose(torch.rad2deg(rotation_angle(pose.expand(6, 4, 4), turned)), torch.tensor([20.0] * 3 + [0.0] * 3).double(), atol=1e-6)
    # one coordinate of the chart is a step of the project's tangent
    delta = torch.diag(torch.tensor([math.radians(20.0)] * 3 + [30.0] * 3)).double()
    assert torch.allclose(turned, retract(pose.expand(6, 4, 4), delta, CENTRE), atol=1e-9)
    screws = so4.poses(torch.eye(6).double())
    # the bi-invariant distance of one half-angle is its length, whichever coordinate: rho ||log|| / sqrt 2 with ||log|| = 2 |a|
    distance = so4_pose_distance(pose.expand(6, 4, 4), screws, CENTRE, SMALL.rho_mm)
    assert torch.allclose(distance, torch.full((6,), math.sqrt(2.0) * SMALL.rho_mm * math.radians(20.0)).double(), rtol=1e-6)


def test_similarities_peak_at_the_truth(done) -> None:
    assert len(done.lines) == 12 and len(done.planes) == 6
    for line in done.lines:
        assert set(line.values) == {"spherical", "ncc", "gradient_ncc"}
        assert abs(line.offsets[int(line.values["ncc"].argmax())]) <= line.offsets[5]  # a step of 5 deg or 7.5 mm at most
        assert line.values["spherical"].max() <= 0
    for plane in done.planes:
        assert plane.values["spherical"].shape == (5, 5)
        assert np.unravel_index(plane.values["gradient_ncc"].argmax(), (5, 5)) == (2, 2) or plane.axes == ("turn about R", "shift along R")
    # a line and the plane's middle row are the same poses
    line, plane = done.lines[0], done.planes[0]
    np.testing.assert_allclose(plane.values["ncc"][:, 2], line.values["ncc"][::2], atol=1e-5)


def test_what_is_written(done, tmp_path: Path) -> None:
    files = done.write(tmp_path)
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
    with (tmp_path / "landscape_lines.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 9 and float(rows[4]["offset"]) == 0.0 and set(rows[0]) >= {"spherical", "ncc"}
    with (tmp_path / "landscape_planes.csv").open(newline="") as file:
        assert sum(1 for _ in file) == 1 + 6 * 25
    text = (tmp_path / "landscape.md").read_text(encoding="utf-8")
    assert "| SO(4) | Log p, R |" in text and len(done.table().rows) == 36


def test_curves_in_numbers() -> None:
    x = np.linspace(-4, 4, 9)
    assert peaks(-(x**2)) == 1 and basin(x, -(x**2)) == (-4.0, 4.0)
    wavy = np.array([3.0, 1, 2, 5, 6, 4, 5, 1, 0])
    assert peaks(wavy) == 3 and basin(x, wavy) == (-3.0, 1.0)
    assert basin(x + 1.0, wavy) == (-2.0, 2.0)  # the truth one step beside the peak: the same basin
    assert peaks(np.ones(5)) == 0 and basin(x, np.ones(9)) == (0.0, 0.0)
    assert peaks(np.array([0.0, 1, 1, 0])) == 1 and peaks(np.array([1.0, 2, 3])) == 1


def test_normalised() -> None:
    np.testing.assert_allclose(normalised(np.array([-3.0, -1.0, -2.0])), [0.0, 1.0, 0.5])
    np.testing.assert_array_equal(normalised(np.full(3, 7.0)), np.zeros(3))
    np.testing.assert_allclose(normalised(np.array([np.nan, 1.0, 2.0, -np.inf])), [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(normalised(np.full(2, np.nan)), np.zeros(2))


def test_figures_have_a_panel_for_each_slice(done) -> None:
    lines, planes = line_figure(done.lines), plane_figure(done.planes)
    assert isinstance(lines, Figure) and len(lines.axes) == 12 and len(planes.axes) == 2 * 3 * 3
    assert len(lines.axes[0].lines) == 4  # the truth and three similarities
    one = Line("a", "x", "mm", np.zeros(1), {"s": np.zeros(1)})
    with pytest.raises(InputError, match="slices"):
        line_figure([])
    with pytest.raises(InputError, match="slices"):
        line_figure([one, one, Line("b", "x", "mm", np.zeros(1), {"s": np.zeros(1)})])
    flat = Plane("a", ("x", "y"), ("mm", "mm"), (np.arange(3.0), np.arange(3.0)), {"s": np.zeros((3, 3))})
    assert len(plane_figure([flat]).axes) == 1


def test_it_can_be_cancelled_and_refuses(done) -> None:
    def stop(step: Progress) -> None:
        raise Cancelled

    case = Case(Path("x"), phantom.volume(), (View(phantom.radiograph(phantom.true_pose()), np.eye(4)),))
    torch.manual_seed(0)
    encoder = SphericalEncoder(EncoderConfig(TrunkConfig(image_size=32, width=32, blocks=0), elements=2)).eval()
    model = Model(encoder, None, Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5)))
    with pytest.raises(Cancelled):
        landscape(case, Truth(phantom.true_pose().numpy(), np.zeros((1, 3))), model, SMALL, progress=stop)
    for changes in ({"rotation_deg": 0}, {"translation_mm": -1}, {"line_points": 2}, {"similarities": ("mi",)}, {"similarities": ()}, {"rho_mm": 1}):
        with pytest.raises(InputError):
            replace(SMALL, **changes)


def test_a_model_of_labels_shows_these_alone_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = SphericalEncoder(EncoderConfig(TrunkConfig(image_size=32, width=32, blocks=0), elements=2)).eval()
    model = Model(encoder, None, Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5)), {"training": {"labels": [3]}})
    views = (View(phantom.radiograph(phantom.true_pose()), np.eye(4)),)
    truth, options = Truth(phantom.true_pose().numpy(), np.zeros((1, 3))), replace(SMALL, line_points=3, plane_points=3, similarities=("ncc",))
    for labels, said in ((None, r"no label map \(labels\.\*\)"), (np.zeros(phantom.volume().shape, np.uint8), "a label map with 0 alone")):
        case = Case(Path("somewhere/phantom"), replace(phantom.volume(), labels=labels), views)
        with pytest.raises(InputError, match=rf"trained on label 3 of its CT, but the case \S*phantom has {said}"):
            landscape(case, truth, model, options)
    bones = replace(phantom.volume(), labels=np.where(phantom.volume().hu > 200, 3, 0).astype(np.uint8))
    some = landscape(Case(Path("somewhere/phantom"), bones, views), truth, model, options)
    assert some.notes == ("The CT's label 3 alone is rendered, as the model was trained.",)
    some.write(tmp_path)
    assert some.notes[0] in (tmp_path / "landscape.md").read_text(encoding="utf-8")
