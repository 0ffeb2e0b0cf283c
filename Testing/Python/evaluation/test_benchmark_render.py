"""The benchmark compares the same images and counts the right cells; how fast anything is, is not tested."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from SphericalRegLib.evaluation import benchmark_render as benchmark
from SphericalRegLib.evaluation.benchmark_rivals import rivals
from SphericalRegLib.evaluation.benchmark_scaling import (
    GatherRate,
    ScalingPoint,
    cell_words,
    cube_camera,
    cube_pose,
    measure_gather,
    measure_scaling,
    solid_cube,
)
from SphericalRegLib.rendering.layout import pack
from SphericalRegLib.rendering.projector import Projector


@pytest.fixture(scope="module")
def projector() -> Projector:
    return Projector(solid_cube(48), cube_camera(24))


def test_rivals_render_what_we_render(projector):
    pytest.importorskip("diffdrr")
    pose = cube_pose(projector.attenuation)
    image = projector.project(pose)[0]
    names = []
    for rival in rivals(projector, pose):
        names.append(rival.name)
        assert float((rival.run() - image).norm() / image.norm()) < 0.02, rival.name
    assert {"DiffDRR siddon", "DiffDRR trilinear"} <= set(names)


def test_gathered_cells_add_up_to_the_image(projector):
    """The corners' sum over all cells is eight times the image's sum on average: the same cells, none twice and none left out."""
    pose = cube_pose(projector.attenuation)
    words = cell_words(projector, pose).astype(np.int64)
    packed = pack(projector.attenuation.mu, torch.device("cpu"))
    cells = packed.cells.view(-1).numpy().view(np.uint16)
    corners = sum(float(cells[words + offset].sum(dtype=np.float64)) for offset in (0, 1, 6, 7, 32, 33, 38, 39))
    total = float((projector.project(pose).double()).sum()) / projector.step_mm / packed.scale
    assert corners / 8 == pytest.approx(total, rel=5e-3)


def test_compare_and_results_travel(projector, tmp_path):
    pose = cube_pose(projector.attenuation)
    entries = benchmark.compare(projector, pose, 1, lambda message: None)
    assert entries[0].name == benchmark.OURS and entries[0].ratio == 1.0
    assert all(e.median_ms >= e.min_ms > 0 for e in entries)
    scaling = measure_scaling((8, 16), (12, 16), 16, 16, lambda message: None)
    assert {(p.volume_edge, p.image_edge) for p in scaling} == {(12, 16), (16, 8), (16, 16)}
    assert all(p.samples > 0 for p in scaling)
    gather = measure_gather(48, 32)
    assert min(gather.eight_loads, gather.two_loads, gather.renderer) > 0
    batches = (benchmark.Batch(400, 32, False, 1.0),)
    result = benchmark.RenderBenchmark(2, (48, 48, 48), 1.0, 0.1, 0.2, tuple(entries), batches, gather, tuple(scaling), 16, 16)
    assert "400 poses" in result.summary()
    written = result.write(tmp_path)
    assert {p.suffix for p in written} == {".json", ".csv", ".png"} and all(p.stat().st_size > 0 for p in written)
    content = json.loads((tmp_path / "benchmark_render.json").read_text())
    assert content["entries"][0]["ratio"] == 1.0 and content["scaling"][0]["ns_per_sample"] > 0


def test_derived_numbers():
    assert ScalingPoint(64, 100, 5.0, 50_000).ns_per_ray == pytest.approx(500.0)
    assert ScalingPoint(64, 100, 5.0, 50_000).ns_per_sample == pytest.approx(100.0)
    assert GatherRate(1000.0, 2000.0, 500.0).fraction_of_two == pytest.approx(0.25)
