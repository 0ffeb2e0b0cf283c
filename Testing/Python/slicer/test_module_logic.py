"""The logic as scripts use it, in real scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from SphericalRegLib.errors import InputError

GEOMETRY = {"sdd_mm": 900, "pixel_spacing_mm": [2.5, 2.2], "principal_point_px": [50, 37], "intensity": "counts"}


@pytest.fixture
def logic(widget: Any) -> Any:
    return widget.logic


def test_blocking(slicer: ModuleType, logic: Any, phantom: Any) -> None:
    from SphericalRegLib.mrml.provenance import result_of

    said: list[str] = []
    nodes = logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap", progress=lambda report: said.append(report.stage))
    assert phantom.ct.GetParentTransformNode() is nodes.transform
    assert nodes.drr.GetImageData().GetDimensions() == (96, 80, 1)
    result = result_of(nodes.transform)
    assert result is not None
    assert result.seed == 0
    assert len(set(said)) >= 2


def test_not_blocking(slicer: ModuleType, logic: Any, phantom: Any, wait: Callable[..., float]) -> None:
    answers: list[Any] = []
    runner = logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap", waitForCompletion=False, finished=answers.append)
    assert runner.busy
    wait(lambda: bool(answers))
    assert answers[0].transform is phantom.ct.GetParentTransformNode()
    assert not runner.busy


def test_nodes_give_the_poses_that_the_library_gives(logic: Any, phantom: Any) -> None:
    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.mrml.session import read_request
    from SphericalRegLib.registration.pipeline import register

    request = read_request(phantom.ct, phantom.xray, geometry=_values(), device="cpu")
    expected = register(request.ct, request.radiograph, "ap", options=logic.options, seed=3)
    rows = logic.registerBatch([(phantom.ct, phantom.xray)], geometry=GEOMETRY, initial="ap", device="cpu", seed=3)
    assert rows[0]["error"] is None
    assert np.abs(np.array(rows[0]["camera_from_world"]) - expected.camera_from_world).max() < 1e-6
    found = result_of(phantom.ct.GetParentTransformNode())
    assert found is not None
    assert found.camera_from_world == pytest.approx(expected.camera_from_world, abs=1e-6)


def test_a_pair_that_fails_does_not_stop_the_batch(slicer: ModuleType, logic: Any, phantom: Any) -> None:
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    rows = logic.registerBatch([(empty, phantom.xray), (phantom.ct, phantom.xray)], geometry=GEOMETRY, initial="ap")
    assert "no image" in rows[0]["error"]
    assert rows[1]["error"] is None


def test_pairs_that_are_cancelled_keep_what_is_done(logic: Any, phantom: Any, tmp_path: Path) -> None:
    from SphericalRegLib.progress import Cancelled, Progress

    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("batch", 1):
            raise Cancelled

    pairs = [(phantom.ct, phantom.xray)] * 2
    with pytest.raises(Cancelled):
        logic.registerBatch(pairs, tmp_path / "out", geometry=GEOMETRY, initial="ap", progress=stop)
    lines = (tmp_path / "out" / "pairs.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and lines[1].startswith('"phantom CT, phantom X-ray"')


def test_render_drr_shows_the_scene(slicer: ModuleType, logic: Any, phantom: Any) -> None:
    """At the true pose the DRR is the image that the X-ray was made from."""
    from SphericalRegLib.mrml.voxels import voxels

    placed = logic.placeXray(phantom.ct, phantom.xray, geometry=GEOMETRY, view=phantom.pose)
    drr = logic.renderDRR(phantom.ct, placed, device="cpu")
    counts = voxels(phantom.xray)[0].astype(float)
    assert voxels(drr)[0] == pytest.approx(-np.log(counts / 60000), abs=2e-2)
    small = logic.renderDRR(phantom.ct, placed, drr, longerSide=48, device="cpu")
    assert small is drr
    assert voxels(drr)[0].shape == (40, 48)
    with pytest.raises(InputError, match="no place in the scene"):
        logic.renderDRR(phantom.ct, phantom.xray)


@pytest.mark.parametrize("view", ["left", (20.0, -10.0)])
def test_views_put_the_ct_where_the_x_ray_says_it_is(logic: Any, phantom: Any, view: Any) -> None:
    from SphericalRegModule.rendering import centre_of

    from SphericalRegLib.mrml.detector import placed_camera

    for known, expected in (({}, 0.75 * 900), ({"sod_mm": 600}, 600)):
        placed = placed_camera(logic.placeXray(phantom.ct, phantom.xray, geometry={**GEOMETRY, **known}, view=view))
        assert placed is not None
        depth = (np.linalg.inv(placed.world_from_camera) @ [*centre_of(phantom.ct), 1])[2]
        assert depth == pytest.approx(expected)


def test_bad_input_is_named_before_anything_is_changed(slicer: ModuleType, logic: Any, phantom: Any) -> None:
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(InputError, match="source-to-detector"):
        logic.register(phantom.ct, phantom.xray)
    with pytest.raises(InputError, match="no place in the scene"):
        logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="scene")
    with pytest.raises(InputError, match=r"'phantom X-ray' has no source-to-detector distance \(sdd_mm\): enter it under Geometry"):
        logic.register(phantom.ct, phantom.xray, initial="ap")
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_out_of_gpu_memory_goes_on_with_the_cpu(monkeypatch: pytest.MonkeyPatch, phantom: Any, logic: Any) -> None:
    from SphericalRegLib.mrml import session

    request = logic.readRequest(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap")
    first = [True]
    real = session._run

    def run_out(asked: Any, progress: Any) -> Any:
        if first.pop() if first else False:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(asked, progress)

    monkeypatch.setattr(session, "_run", run_out)
    said: list[str] = []
    outcome = session.run(session.replace(request, device="cuda"), lambda report: said.append(report.message))
    assert session.CPU_INSTEAD in outcome.result.notes
    assert session.CPU_INSTEAD in said


def test_batch_of_folders_needs_an_output(logic: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder for its results"):
        logic.registerBatch(tmp_path)


def _values() -> Any:
    from SphericalRegLib.imaging.radiograph import geometry_values

    return geometry_values(GEOMETRY)
