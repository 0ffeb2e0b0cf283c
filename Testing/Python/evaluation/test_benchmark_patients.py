"""`benchmark patients`: who is new to whom, what is judged, and that a second run does nothing twice."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation import benchmark_patients as bench
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.models.checkpoint import load_model
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.validation import ValidationOptions

CAMERA = Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5))
TRUNK = TrunkConfig(image_size=32, width=32, blocks=1)
TRAINING = TrainingOptions(
    iterations=3,
    batch=4,
    poses=PoseRange(("ap",), 10, 10, 5, 5, 20),
    encoder=EncoderConfig(TRUNK, elements=4),
    regressor=RegressorConfig(TRUNK, components=2),
    validation=ValidationOptions(times=1, xrays=4, iterations=2),
)
OPTIONS = bench.PatientsOptions(TRAINING, made_up=2, minutes=(0.05,), cases=1)


def test_one_ct_makes_a_new_patient_that_no_training_saw(tmp_path: Path) -> None:
    done = bench.run_patients_benchmark([replace(phantom.volume(), name="phantom")], CAMERA, tmp_path, OPTIONS)
    assert [(outcome.kind, outcome.minutes) for outcome in done.outcomes] == [(bench.OTHERS, 0.0), (bench.TUNED, 0.05), (bench.OWN, 0.05)]
    assert all(len(outcome.errors) == 1 and outcome.figures["mtre_mm"] > 0 for outcome in done.outcomes)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    of_others, tuned = (load_model(folder / f"{name}.safetensors").card for name in ("others", "fine_tuned_0.05min"))
    assert len(of_others["cts"]) == 3 and len(tuned["cts"]) == 1 and tuned["base"] == "others.safetensors"
    assert tuned["cts"][0]["mass_mm2"] not in {ct["mass_mm2"] for ct in of_others["cts"]}
    files = done.write(tmp_path)
    assert all(path.is_file() for path in files) and "made-up" in files[0].read_text() + files[1].read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    again = bench.run_patients_benchmark([replace(phantom.volume(), name="phantom")], CAMERA, tmp_path, OPTIONS)
    assert again.outcomes == done.outcomes and before == {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_several_are_left_out_in_turn() -> None:
    a, b, c = (replace(phantom.volume(), name=name) for name in "abc")
    assert [(new.name, [other.name for other in others]) for new, others in bench._split([a, b, c])] == [
        ("a", ["b", "c"]),
        ("b", ["a", "c"]),
        ("c", ["a", "b"]),
    ]


def test_refusals() -> None:
    for wrong in ({"made_up": -1}, {"cases": 0}, {"minutes": ()}, {"minutes": (0.0,)}):
        with pytest.raises(InputError, match="made-up patients"):
            replace(OPTIONS, **wrong)
