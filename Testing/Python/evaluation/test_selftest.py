"""The self-test passes where all is well, and fails where it is not."""

from __future__ import annotations

import pytest
import torch

from SphericalRegLib.evaluation import selftest
from SphericalRegLib.rendering.projector import Projector


def test_the_renderer_agrees_with_the_plain_reference() -> None:
    assert "limit" in selftest.check_image("cpu")
    assert "limit" in selftest.check_jacobian("cpu")


def test_a_wrong_image_and_a_wrong_jacobian_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Projector.project_with_jacobian
    monkeypatch.setattr(Projector, "project", lambda self, pose: 1.002 * right(self, pose)[0])
    with pytest.raises(AssertionError, match="image"):
        selftest.check_image("cpu")

    def left_handed(self: Projector, pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image, jacobian = right(self, pose)
        return image, jacobian * torch.tensor([1.0, 1, 1, 1, -1, 1])

    monkeypatch.setattr(Projector, "project_with_jacobian", left_handed)
    with pytest.raises(AssertionError, match="columns"):
        selftest.check_jacobian("cpu")


def test_what_fails_is_reported_and_the_rest_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("the device\nis on fire")

    for name in ("check_image", "check_jacobian", "measure_speed", "check_registration"):
        monkeypatch.setattr(selftest, name, broken if name == "check_image" else lambda *_: "fine")
    report = selftest.run_selftest("cpu")
    assert not report.passed
    assert [check.outcome for check in report.checks] == ["pass", "FAIL", "pass", "skipped", "pass", "pass"]
    assert report.checks[1].detail == "RuntimeError: the device is on fire"
    assert report.to_dict()["environment"]["torch"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_version", lambda package: None if package == "pydicom" else "1.0")
    with pytest.raises(AssertionError, match="pydicom"):
        selftest.check_installation()
