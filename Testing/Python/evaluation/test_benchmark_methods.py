"""Whole registrations by several methods: each one runs, what is recorded, that a run goes on and can be widened."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import method_cases

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation import benchmark_methods
from SphericalRegLib.evaluation.benchmark_methods import MethodsOptions, least_share, run_methods_benchmark
from SphericalRegLib.evaluation.methods import METHODS, End, OnIntensities, OnSpheres, Registration, Setting, adam
from SphericalRegLib.evaluation.metrics import pose_errors
from SphericalRegLib.evaluation.registrar import CaseRegistrar
from SphericalRegLib.evaluation.truth import load_truth
from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions
from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.registration.options import RegistrationOptions, Stage
from SphericalRegLib.simulation.poses import draw_start

OPTIONS = MethodsOptions(("NCC LM", "intensity LM"), ((2.0, 3.0), (4.0, 5.0)))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return method_cases.cases(tmp_path_factory.mktemp("cases"))


def never(*_):
    raise AssertionError("nothing was left to do")


@pytest.mark.parametrize("name", METHODS)
def test_each_method_gives_a_pose_and_can_be_stopped(name: str, cases) -> None:
    case, truth = load_case(cases[0]), load_truth(cases[0])
    setting = Setting(CaseRegistrar().prepared(case), case.views, method_cases.model(), spread=(1.0, 2.0))
    start = draw_start(truth.camera_from_world, np.asarray(case.volume.centre_ras_mm), 1.0, 2.0, np.random.default_rng(0))
    steps: list[Progress] = []
    pose = METHODS[name](setting, start, steps.append).camera_from_world
    assert pose.shape == (4, 4) and np.isfinite(pose).all() and steps
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)

    def stop(_: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        METHODS[name](setting, start, stop)


@pytest.mark.parametrize("search", [adam(80, 1.0, 0.1), LMOptions(20)], ids=["adam", "lm"])
def test_a_search_on_intensities_comes_nearer(cases, search) -> None:
    case, truth = load_case(cases[0]), load_truth(cases[0])
    setting = Setting(CaseRegistrar().prepared(case), case.views)
    start = draw_start(truth.camera_from_world, np.asarray(case.volume.centre_ras_mm), 2.0, 4.0, np.random.default_rng(3))

    def error(pose: np.ndarray) -> float:  # what one small image shows of depth is little
        centre = np.asarray(case.volume.centre_ras_mm)
        return pose_errors(truth.camera_from_world, pose, truth.fiducials, case.views[0].radiograph.camera, centre).in_plane

    found = OnIntensities((("ncc", 1.0), ("local_ncc", 1.0)), ((32, search), (64, search)))(setting, start, silent)
    assert error(found.camera_from_world) < 0.1 * error(start)


def test_outcomes_are_summed_up_and_a_run_goes_on_with_more(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Progress] = []
    done = run_methods_benchmark(cases, tmp_path, OPTIONS, progress=reports.append)
    assert len(done.outcomes) == 2 * 2 * 2
    assert len({(o.case, o.start) for o in done.outcomes}) == 4  # all methods begin at the same pose
    table = done.table()
    assert [row[:3] for row in table.rows] == [(f"{d}", m, 2) for d in ("2/3", "4/5") for m in OPTIONS.methods]
    assert reports[-1].done == reports[-1].total == 8
    assert {path.name for path in done.write(tmp_path)} == {"methods.csv", "methods.md", "methods.png"}
    with monkeypatch.context() as patch:
        patch.setattr(benchmark_methods._Job, "run", never)
        assert run_methods_benchmark(cases, tmp_path, OPTIONS).table().rows == table.rows
        few = MethodsOptions(OPTIONS.methods[:1], OPTIONS.spreads[:1])
        model = method_cases.model()
        assert run_methods_benchmark(cases[:1], tmp_path, few, model=model).outcomes == done.outcomes[:1]  # which has no use for the model
    more = replace(OPTIONS, methods=("NCC LM", "intensity LM", "spherical LM"), spreads=((2.0, 3.0),))
    wider = run_methods_benchmark(cases, tmp_path, more, model=model).table()
    assert [row for row in wider.rows if row[1] != "spherical LM"] == [row for row in table.rows if row[0] == "2/3"]
    with pytest.raises(InputError, match="seed"):
        run_methods_benchmark(cases, tmp_path, replace(OPTIONS, seed=1))


def test_an_outcome_is_kept_for_what_decided_it_alone(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = MethodsOptions(("NCC LM",), ((2.0, 3.0),))
    first = run_methods_benchmark(cases, tmp_path, options)
    entries = tmp_path / "registrations.jsonl"
    assert len(entries.read_text().splitlines()) == 3
    other = run_methods_benchmark(cases[::-1], tmp_path, options)  # other starts
    assert {o.start for o in other.outcomes}.isdisjoint(o.start for o in first.outcomes)
    monkeypatch.setitem(METHODS, "NCC LM", OnIntensities((("ncc", 1.0),), ((32, LMOptions(3)),)))
    run_methods_benchmark(cases, tmp_path, options)  # another search
    assert len(entries.read_text().splitlines()) == 7


def test_with_no_start_too_an_outcome_is_kept_for_its_truth_alone(tmp_path: Path) -> None:
    (case,) = method_cases.cases(tmp_path / "cases", 1)
    options = MethodsOptions(("no model",), (None,))
    first = run_methods_benchmark([case], tmp_path / "out", options).outcomes[0]
    truth = json.loads((case / "truth.json").read_text())
    truth["camera_from_world"][0][3] += 50.0
    (case / "truth.json").write_text(json.dumps(truth))
    assert run_methods_benchmark([case], tmp_path / "out", options).outcomes[0].end > first.end + 40


def test_a_model_of_another_ct_is_told(cases, tmp_path: Path) -> None:
    options, model = MethodsOptions(("spherical LM", "NCC LM"), ((2.0, 3.0),)), method_cases.model()
    card = {**model.card, "cts": None}
    told = run_methods_benchmark(cases[:1], tmp_path, options, model=replace(model, card=card))
    assert len(told.notes) == 1 and "does not say which CT" in told.notes[0]
    assert [len(o.notes) for o in told.outcomes] == [1, 0]
    told.write(tmp_path)
    assert told.notes[0] in (tmp_path / "methods.md").read_text()
    assert run_methods_benchmark(cases[:1], tmp_path, options, model=replace(model, card=card)).notes == told.notes  # also where all was done before


def test_a_prior_holds_a_search_on_the_spheres_to_its_start(cases) -> None:
    case, model = load_case(cases[0]), method_cases.model()
    setting = Setting(CaseRegistrar().prepared(case), case.views, model)
    truth = load_truth(cases[0])
    start = draw_start(truth.camera_from_world, np.asarray(case.volume.centre_ras_mm), 4.0, 8.0, np.random.default_rng(3))

    stay = RegistrationOptions((Stage(16, iterations=1),), multi_start=None, second_start=None)
    held, free = (OnSpheres(LMOptions(4), prior=prior, intensity=stay) for prior in (True, False))
    without, from_the_start = (method(setting, start, silent).camera_from_world for method in (free, Registration(stay)))
    assert np.abs(without - from_the_start).max() > 0.5
    for spread in ((1e-5, 1e-5), (0.0, 0.0)):
        stayed = held(replace(setting, spread=spread), start, silent).camera_from_world
        np.testing.assert_allclose(stayed, from_the_start, atol=0.05)  # it has not moved
    with pytest.raises(InputError, match="spread"):
        held(setting, start, silent)


def test_a_benchmark_tells_the_spread_to_the_method_with_a_prior(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(OnSpheres, "__call__", lambda method, setting, start, progress: (told.append((method.prior, setting.spread)), End(start))[1])
    options = MethodsOptions(("spherical MAP",), ((2.0, 3.0), (4.0, 5.0)))
    run_methods_benchmark(cases[:1], tmp_path, options, model=method_cases.model())
    assert told == [(True, (2.0, 3.0)), (True, (4.0, 5.0))]


def test_with_no_initial_pose_methods_that_need_none_are_compared(cases, tmp_path: Path) -> None:
    options = MethodsOptions(("no model", "NCC LM"), ((2.0, 3.0), None))
    assert options.pairs == (((2.0, 3.0), "no model"), ((2.0, 3.0), "NCC LM"), (None, "no model"))
    done = run_methods_benchmark(cases[:1], tmp_path, options)
    rows = [dict(zip(done.table().columns, row)) for row in done.table().rows]
    shown = [(row["start [deg/mm]"], row["method"], row["failed"]) for row in rows]
    assert shown == [("2/3", "no model", 0), ("2/3", "NCC LM", 0), ("none", "no model", 0)]
    assert rows[2]["start, median [mm]"] is None
    case = load_case(cases[0])
    alone = CaseRegistrar()(replace(case, initial_camera_from_world=None))  # what a user gets who knows no pose
    truth, centre = load_truth(cases[0]), np.asarray(case.volume.centre_ras_mm)
    expected = pose_errors(truth.camera_from_world, alone.camera_from_world, truth.fiducials, case.views[0].radiograph.camera, centre).mtre_3d
    assert rows[2]["median [mm]"] == pytest.approx(expected, rel=1e-6)
    done.write(tmp_path)
    assert run_methods_benchmark(cases[:1], tmp_path, options).outcomes == done.outcomes


def test_what_says_that_it_is_doubtful_is_counted(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubts = iter(["its score is low", None, None, None])
    far = load_truth(cases[0]).camera_from_world.copy()
    far[0, 3] += 500.0
    monkeypatch.setattr(OnIntensities, "__call__", lambda *_: End(far, next(doubts)))
    options = MethodsOptions(("NCC LM",), ((2.0, 3.0), (4.0, 5.0)))
    done = run_methods_benchmark(cases, tmp_path, options)
    rows = [dict(zip(done.table().columns, row)) for row in done.table().rows]
    assert [(row["> 10 mm [%]"], row["doubtful [%]"], row["> 10 mm, not doubtful [%]"]) for row in rows] == [(100, 50, 50), (100, 0, 100)]
    assert run_methods_benchmark(cases, tmp_path, options).outcomes == done.outcomes, "it is kept, too"


def test_a_failed_registration_says_why_and_is_tried_again(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = MethodsOptions(("NCC LM",), ((2.0, 3.0),))

    def fail(*_):
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(OnIntensities, "__call__", fail)
        (row,) = run_methods_benchmark(cases, tmp_path, options).table().rows
    assert row[2:4] == (2, 2) and np.isnan(row[-1])
    assert '"error": "RuntimeError: no luck"' in (tmp_path / "registrations.jsonl").read_text()
    (row,) = run_methods_benchmark(cases, tmp_path, options).table().rows
    assert row[2:4] == (2, 0)


def test_a_start_that_does_not_show_the_ct_is_a_failed_registration(cases, tmp_path: Path) -> None:
    options = MethodsOptions(("NCC LM",), ((0.0, 3000.0),))
    done = run_methods_benchmark(cases[:1], tmp_path, options)
    row = dict(zip(done.table().columns, done.table().rows[0]))
    assert row["failed"] == 1 and row["median [mm]"] == np.inf and row["< 2 mm [%]"] == 0 and row["> 10 mm [%]"] == 100
    assert done.outcomes[0].error is not None and "does not show the CT" in done.outcomes[0].error


def test_a_stopped_run_keeps_what_is_done(cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(step: Progress) -> None:
        if step.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_methods_benchmark(cases, tmp_path, OPTIONS, progress=stop)
    assert len((tmp_path / "registrations.jsonl").read_text().splitlines()) == 1 + 3


def test_what_cannot_be_compared_is_refused(cases, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="full and spherical LM need a model"):
        run_methods_benchmark(cases, tmp_path, MethodsOptions(("full", "no model", "spherical LM")))
    with pytest.raises(InputError, match="no case"):
        run_methods_benchmark([], tmp_path)
    with pytest.raises(InputError, match="expected some of full"):
        MethodsOptions(("magic",))
    with pytest.raises(InputError, match="none twice"):
        MethodsOptions(("NCC LM", "NCC LM"))
    for spreads in ((), ((5.0, 5.0), (5.0, 5.0))):
        with pytest.raises(InputError, match="none twice"):
            MethodsOptions(spreads=spreads)
    with pytest.raises(InputError, match="finite"):
        MethodsOptions(spreads=((5.0, -1.0),))
    with pytest.raises(InputError, match="expected one of full, no model where no initial pose is given"):
        MethodsOptions(("NCC LM",), ((5.0, 5.0), None))
    with pytest.raises(InputError, match="No initial pose is given, but NCC LM and mNCC Adam begin at one"):
        MethodsOptions(("full", "NCC LM", "mNCC Adam"), (None,))


def test_the_bound_of_a_share_is_that_of_clopper_and_pearson() -> None:
    assert least_share(12, 12) == pytest.approx(0.05 ** (1 / 12))  # all right: the share p with p^n = 5 %
    assert least_share(0, 12) == 0.0
    assert 0.9 < least_share(98, 100) < 0.98
