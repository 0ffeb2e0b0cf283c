"""From a case and its result to the report."""

from pathlib import Path

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.case import Case, View
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.visualization.case_report import Rendered, case_report
from SphericalRegLib.visualization.convergence import stage_traces
from SphericalRegLib.visualization.report import METRICS, report_html

POSE = np.array([[1.0, 0, 0, 1], [0, 0, -1, 2], [0, 1, 0, 800], [0, 0, 0, 1]])


def a_case() -> Case:
    camera = Camera(sdd_mm=1020.0, pixel_spacing_mm=(0.5, 0.6), size_px=(40, 30), principal_point_px=(19.5, 14.5))
    image = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    turn = np.eye(4)
    turn[0, 3] = 7.0
    first = Radiograph(image, np.ones(image.shape, bool), camera, name="a.png")
    second = Radiograph(image, np.ones(image.shape, bool), camera, "display", mirrored=True, name="a.png")
    volume = Volume.from_array(np.linspace(-1000, 1000, 120, dtype=np.float32).reshape(4, 5, 6), np.diag([1.0, 2.0, 3.0, 1.0]))
    return Case(Path("folder/knee"), volume, (View(first, np.eye(4)), View(second, turn)))


def a_result() -> dict:
    stages = [
        {"name": "search", "seconds": 0.5, "hypotheses": 400, "iterations": 0, "costs": []},
        {"name": "refine 64 px", "seconds": 0.25, "hypotheses": 16, "iterations": 2, "costs": [3.0, 2.0, None]},
    ]
    return {"camera_from_world": POSE.tolist(), "stages": stages, "verdict": "uncalibrated", "notes": ["the start <was> guessed"], "seconds": 1.5}


def test_a_case_becomes_a_report():
    case = a_case()
    drawn = [Rendered(view.radiograph.image) for view in case.views]
    report = case_report(a_result(), case, drawn, command="again")
    assert report.title == "knee"
    np.testing.assert_allclose(report.views[1].camera_from_world[:3, 3], [8, 2, 800])
    assert [view.mirrored for view in report.views] == [False, True]
    assert len(report.inputs) == 3, "two X-rays of one name keep a line each"
    descriptions = " | ".join(report.inputs.values())
    for words in ("4 x 5 x 6 voxels of 1.00 x 2.00 x 3.00 mm", "40 x 30 pixels of 0.500 x 0.600 mm", "1020 mm", "stored mirrored", "100 %"):
        assert words in descriptions
    text = report_html(report)
    for words in ("the start &lt;was&gt; guessed", "1.50 s", "400", "refine 64 px"):
        assert words in text


def test_stages_of_a_result_file():
    search, refine = stage_traces(a_result()["stages"])
    assert search.costs.size == 0 and search.tried == 400
    assert refine.costs.shape == (3, 1) and np.isnan(refine.costs[2, 0]) and refine.tried == 16
    (several,) = stage_traces([{"name": "x", "seconds": 1, "costs": [[3.0, 2.0], [1.0, 1.5]], "kept": 1}])
    assert several.kept == 1 and several.tried == 2


def test_every_metric_of_evaluation_has_a_definition():
    """Asked of the source, so that this room needn't import the one above it."""
    import ast

    import SphericalRegLib

    source = Path(SphericalRegLib.__file__).parent / "evaluation" / "metrics.py"
    classes = {node.name: node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)}
    names = {node.target.id for node in classes["PoseErrors"].body if isinstance(node, ast.AnnAssign)}
    assert names and names <= set(METRICS)


def test_what_does_not_fit_is_named():
    case = a_case()
    with pytest.raises(InputError, match="2 X-rays but 1"):
        case_report(a_result(), case, [Rendered(case.views[0].radiograph.image)])
    with pytest.raises(InputError, match="no camera_from_world"):
        case_report({}, case, [Rendered(view.radiograph.image) for view in case.views])
