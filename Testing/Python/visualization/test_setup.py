"""The 3D drawing of a set-up: things stand where the geometry says, and letters where the patient's sides are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from mpl_toolkits.mplot3d import proj3d
from PIL import Image

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import c_arm_view, named_view
from SphericalRegLib.imaging.case import Case, View
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.visualization.setup import PlacedView, draw_case, placed_views, setup_figure

CAMERA = Camera(1000.0, (4.0, 4.0), (64, 48), (31.5, 23.5))


def volume() -> Volume:
    hu = np.full((20, 22, 24), -1000, np.float32)
    hu[6:14, 6:14, 3:20] = 400
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = -95, -105, -115
    return Volume(hu, affine)


def radiograph() -> Radiograph:
    image = np.random.default_rng(0).random((48, 64)).astype(np.float32)
    mask = np.ones((48, 64), bool)
    mask[:6] = False
    return Radiograph(image, mask, CAMERA, name="x.png")


def placed(name: str) -> PlacedView:
    return PlacedView(radiograph(), named_view(name, CAMERA, [0, 0, 0]).numpy())


def texts(axes) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for text in axes.texts:
        found.setdefault(text.get_text(), []).append(np.array(text.get_position_3d()) if hasattr(text, "get_position_3d") else np.zeros(3))
    return found


@pytest.mark.parametrize("name", ["ap", "pa", "left", "right"])
def test_compass_and_letters_of_the_ct_keep_clear_of_the_rest(name):
    """The compass covers neither source nor CT nor detector, and no letter of the CT lies over the detector's picture."""
    view = placed(name)
    figure = setup_figure(volume(), [view])
    scene, compass = figure.axes[0], figure.axes[-1]
    assert not compass.patch.get_visible()

    def on_figure(points) -> np.ndarray:
        across, down, _ = proj3d.proj_transform(*np.asarray(points, dtype=float).T, scene.get_proj())
        return figure.transFigure.inverted().transform(scene.transData.transform(np.stack((across, down), 1)))

    corners = np.array([[-0.5, -0.5], [63.5, -0.5], [63.5, 47.5], [-0.5, 47.5]])
    detector = on_figure((np.c_[CAMERA.back_project(corners), np.ones(4)] @ view.world_from_camera.T)[:, :3])
    rest = np.concatenate((detector, on_figure([view.world_from_camera[:3, 3]]), on_figure(volume().box_corners_ras())))
    box = compass.get_position()
    assert not ((rest > box.min) & (rest < box.max)).all(1).any()
    letters = [text for text in scene.texts if text.get_text()[0] in "RLAPSI" and text.get_text() != "source"]
    assert len(letters) == 8
    polygon = Polygon(detector)
    assert not any(polygon.contains_point(spot) for spot in on_figure([text.get_position_3d() for text in letters]))


@pytest.mark.parametrize("name,source", [("ap", (0, 750, 0)), ("pa", (0, -750, 0)), ("left", (750, 0, 0)), ("right", (-750, 0, 0))])
def test_source_and_sides_stand_where_they_are(name, source):
    scene = setup_figure(volume(), [placed(name)]).axes[0]
    found = texts(scene)
    assert found["source"][0] == pytest.approx(np.add(source, (0, 0, 50)))
    left = found["L (patient's left)"][0]
    assert left[0] < -100 and abs(left[1]) < 10  # RAS: left is -x
    on_detector = -250 * 750  # the detector stands 250 mm behind the centre, opposite to the source
    edges = {letter: [place for place in found.get(letter, []) if place @ np.array(source) == pytest.approx(on_detector)] for letter in "LRAP"}
    if name in ("ap", "pa"):
        assert len(edges["L"]) == len(edges["R"]) == 1 and edges["L"][0][0] < 0 < edges["R"][0][0]
    else:
        assert len(edges["P"]) == len(edges["A"]) == 1 and edges["P"][0][1] < 0 < edges["A"][0][1]


def test_image_letters_agree_with_the_pose():
    image_axes = setup_figure(volume(), [placed("ap")]).axes[1]
    places = {text.get_text(): text.get_position() for text in image_axes.texts if len(text.get_text()) == 1}
    assert places["L"][0] > 1 and places["R"][0] < 0 and places["S"][1] > 1 and places["I"][1] < 0


@pytest.mark.parametrize("angles", [(0, 0), (30, 25), (-90, 0), (180, -40), (45, 85)])
def test_everything_is_inside_the_picture(angles):
    pose = c_arm_view(*angles, CAMERA, [0, 0, 0]).numpy()
    view = PlacedView(radiograph(), pose)
    figure = setup_figure(volume(), [view])
    scene = figure.axes[0]
    source = view.world_from_camera[:3, 3]
    corners = volume().box_corners_ras()
    across, down, _ = proj3d.proj_transform(*np.vstack((corners, source)).T, scene.get_proj())
    shown = figure.transSubfigure.inverted().transform(scene.transData.transform(np.stack((across, down), 1)))
    assert (shown > -0.01).all() and (shown[:, 0] < 0.67).all() and (shown[:, 1] < 1.01).all()
    assert np.ptp(shown, axis=0).max() > 0.4  # and not lost in it


def test_case_is_drawn_to_a_file(tmp_path):
    relation = np.linalg.inv(named_view("ap", CAMERA, [0, 0, 0]).numpy()) @ named_view("left", CAMERA, [0, 0, 0]).numpy()
    case = Case(tmp_path, volume(), (View(radiograph(), np.eye(4)), View(radiograph(), relation)))
    assert placed_views(case)[0].note.startswith("no initial pose")
    near = replace(radiograph(), known=GeometryValues(sod_mm=Sourced(0.6 * CAMERA.sdd_mm, "user")))
    pose = placed_views(replace(case, views=(View(near, np.eye(4)),)))[0].camera_from_world
    assert (pose @ [*case.volume.centre_ras_mm, 1])[2] == pytest.approx(0.6 * CAMERA.sdd_mm)
    path = draw_case(case, tmp_path / "setup.png")
    with Image.open(path) as picture:
        assert picture.size[0] > 1200
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 60).sum() > 2000  # coloured lines
    assert [p.name for p in tmp_path.iterdir()] == ["setup.png"]


def test_without_a_ct():
    found = texts(setup_figure(None, [placed("pa")]).axes[0])
    assert "source" in found and "L (patient's left)" not in found
