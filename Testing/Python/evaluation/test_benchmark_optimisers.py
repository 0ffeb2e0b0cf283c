"""Optimisers side by side: what is recorded, that it goes on, what it says of each."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

sys.path.insert(0, str(Path(__file__).parent))
import method_cases

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation import benchmark_optimisers
from SphericalRegLib.evaluation.benchmark_optimisers import DEFAULT_METHODS, OptimiserOptions, _settled, methods_for, run_optimiser_benchmark
from SphericalRegLib.evaluation.capture_range import StartSpread
from SphericalRegLib.evaluation.optimisers import OPTIMISERS, trace
from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.optimization.problem import differentiated
from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.visualization.searches import Search, search_figure

OPTIONS = OptimiserOptions(("anchored:lm", "spherical:adam", "ncc:lm"), 4, StartSpread(1, 4.0, 5.0))
TRUTH, CENTRE = torch.eye(4, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return method_cases.cases(tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_descends_and_its_times_belong_to_its_iterates(name) -> None:
    problem = differentiated(lambda pose: local(TRUTH, pose, CENTRE) * torch.tensor([100.0] * 3 + [1.0] * 3).double(), CENTRE)
    start = retract(TRUTH, torch.tensor([0.05, -0.03, 0.02, 4.0, -2.0, 3.0]).double(), CENTRE)
    found = trace(name, problem, start, CENTRE, 40, silent)
    assert len(found.poses) == len(found.costs) == len(found.seconds) <= 41
    assert found.seconds[0] == 0 and (np.diff(found.seconds) > 0).all()
    np.testing.assert_allclose(found.poses[0], start.numpy())
    assert found.costs[-1] < 0.5 * found.costs[0]
    assert found.evaluations >= len(found.costs) - 1


def test_all_methods_run_and_are_summed_up(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Progress] = []
    done = run_optimiser_benchmark(cases, method_cases.model(), tmp_path, OPTIONS, progress=reports.append)
    assert len(done.searches) == 6
    starts = {(search.case, search.errors[0]) for search in done.searches}
    assert len(starts) == 2  # all methods of a case begin at the same pose
    table = done.table()
    assert [row[0] for row in table.rows] == list(OPTIONS.methods)
    assert all(row[1] == 2 for row in table.rows)
    assert reports[-1].done == reports[-1].total == 6
    files = done.write(tmp_path)
    assert {path.name for path in files} == {"optimisers.csv", "optimisers.md", "optimisers.png", "optimisers_traces.csv"}
    with (tmp_path / "optimisers_traces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == set(OPTIONS.methods) and float(rows[0]["seconds"]) == 0

    def never(*_):
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr(benchmark_optimisers, "trace", never)
    again = run_optimiser_benchmark(cases, method_cases.model(), tmp_path, OPTIONS)
    assert again.table().rows == table.rows
    with pytest.raises(InputError, match="iterations"):
        run_optimiser_benchmark(cases, method_cases.model(), tmp_path, replace(OPTIONS, iterations=5))


def test_a_stopped_run_keeps_what_is_done(cases, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        if step.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_optimiser_benchmark(cases, method_cases.model(), tmp_path, OPTIONS, progress=stop)
    assert len((tmp_path / "searches.jsonl").read_text().splitlines()) == 3


def test_refusals(cases, tmp_path: Path) -> None:
    for methods in ((), ("spherical:newton",), ("mi:lm",), ("lm",), ("anchored:adam",)):
        with pytest.raises(InputError):
            OptimiserOptions(methods)
    with pytest.raises(InputError, match="anchored to no poses"):
        run_optimiser_benchmark(cases[:1], replace(method_cases.model(), card={}), tmp_path / "lost", OPTIONS)
    with pytest.raises(InputError, match="no case"):
        run_optimiser_benchmark([], method_cases.model(), tmp_path)
    with pytest.raises(InputError, match="no search"):
        search_figure([])


def test_settled_is_when_nothing_changes_any_more() -> None:
    def search(*errors: float) -> Search:
        return Search("m", "c", 0, np.arange(len(errors)), np.array(errors), np.ones(len(errors)), 3)

    assert _settled(search(9.0, 1.0, 1.05, 1.0)) == 1
    assert _settled(search(9.0, 1.0, 3.0, 1.0)) == 3
    assert _settled(search(1.0)) == 0
    assert len(search_figure([search(9.0, 4.0, 1.0), search(8.0, np.inf)]).axes) == 4


def test_a_model_of_labels_says_so(cases, tmp_path: Path) -> None:
    bone = replace(method_cases.model(), card={"training": {"labels": [3]}})
    with pytest.raises(InputError, match=r"trained on label 3 of its CT, but the case .*has no label map"):
        run_optimiser_benchmark(cases, bone, tmp_path / "none", OPTIONS)
    for case in cases:  # the last test that uses them
        volume = load_case(case).volume
        labels = replace(volume, labels=np.where(volume.hu > 200, 3, 0).astype(np.uint8)).labels_to_sitk()
        sitk.WriteImage(labels, str(case / "labels.nii.gz"))
    done = run_optimiser_benchmark(cases[:1], bone, tmp_path / "out", replace(OPTIONS, methods=("ncc:lm",), iterations=1))
    done.write(tmp_path / "out")
    assert "label 3 alone" in done.notes[0] and done.notes[0] in (tmp_path / "out" / "optimisers.md").read_text(encoding="utf-8")


def test_a_model_that_is_not_anchored_is_compared_without_that() -> None:
    assert methods_for(method_cases.model()) == DEFAULT_METHODS and DEFAULT_METHODS[0] == "anchored:lm"
    assert methods_for(replace(method_cases.model(), card={})) == DEFAULT_METHODS[1:]
