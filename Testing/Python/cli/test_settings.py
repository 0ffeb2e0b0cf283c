"""`--set NAME=VALUE`, and the words of `train` that make options of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from SphericalRegLib.cli.settings import with_settings
from SphericalRegLib.cli.train import ct_files, training_options
from SphericalRegLib.errors import InputError


@dataclass(frozen=True)
class Inner:
    weight: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    count: int = 3
    name: str = "tiny"
    length: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_fields_are_set_by_their_names() -> None:
    done = with_settings(Outer(), ["count=4", "name=large", "length=7", "inner.weight=2", "inner.span=[1, 2.5]", "count=5"])
    assert done == Outer(5, "large", 7, Inner(2.0, (1.0, 2.5)))
    assert isinstance(done.inner.weight, float) and with_settings(Outer(), []) == Outer()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("count", "expected NAME=VALUE"),
        ("cuont=4", "there is no 'cuont'; expected one of count, name, length, inner"),
        ("inner.wieght=4", "expected one of weight, span"),
        ("count=4.5", "expected a value like 3"),
        ("count=four", "expected a value like 3"),
        ("name=3", 'expected a value like "tiny"'),
        ("inner=3", "'inner' has fields of its own"),
        ("count.more=3", "'count' has no fields"),
        ("inner.span=[1]", "expected 2 numbers"),
    ],
)
def test_what_cannot_be_set_is_said(setting: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        with_settings(Outer(), [setting])
    assert words in str(caught.value) and f"--set {setting}" in str(caught.value)


def test_everything_of_a_training_can_be_reached() -> None:
    options = training_options({}, None, {}, None, settings=["encoder.embedding=cosine", "encoder.elements=4", "loss.anchor=0", "loss.gradient=1"])
    assert (options.loss.anchor, options.loss.gradient, options.encoder.elements, options.encoder.embedding) == (0.0, 1.0, 4, "cosine")
    with pytest.raises(InputError, match="needs 'so4'"):
        training_options({}, None, {}, None, settings=["encoder.embedding=cosine"])
    with pytest.raises(InputError, match="expected one of tiny, large"):
        training_options({}, None, {}, None, network="huge")
    large = training_options({}, None, {"image_size": 64}, None, network="large")
    assert large.encoder.trunk == large.regressor.trunk and large.encoder.trunk.backbone == "resnet18" and large.encoder.trunk.image_size == 64


def test_a_folder_of_cts(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nrrd", "notes.txt", ".hidden.nii"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).touch()
    (tmp_path / "patients" / "two").mkdir(parents=True)
    (tmp_path / "patients" / "one").mkdir()
    (tmp_path / "patients" / "one" / "0001.dcm").touch()
    names = [Path(path).name for path in ct_files(str(tmp_path / "files"))]
    assert names == ["a.nrrd", "b.nii.gz"]
    assert [Path(path).name for path in ct_files(str(tmp_path / "patients"))] == ["one", "two"]
    case = tmp_path / "case"
    case.mkdir()
    for name in ("ct.nii.gz", "labels.nrrd", "xray.nrrd", "geometry.json"):
        (case / name).touch()
    assert [Path(path).name for path in ct_files(str(case))] == ["ct.nii.gz"]
    (case / "xray.nrrd").unlink()
    assert [Path(path).name for path in ct_files(str(case))] == ["ct.nii.gz"], "a label map is no CT"
    for itself in ("sample:pelvis", str(tmp_path / "patients" / "one"), str(tmp_path / "none.nii")):
        assert ct_files(itself) == [itself]
