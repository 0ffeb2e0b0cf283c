from __future__ import annotations

from SphericalRegLib.evaluation import benchmark_rivals


def test_rivals_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(benchmark_rivals, "find_spec", lambda name: None if name == "nanodrr" else object())
    assert benchmark_rivals.missing_rivals() == ("nanodrr",)
