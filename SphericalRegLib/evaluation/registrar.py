"""Registers one case after the other, the same way wherever a batch is started from: command line, Slicer's panel, its Python console."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from SphericalRegLib.imaging.case import Case, check_start, pose_to_start_from
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import ProgressCallback, silent
from SphericalRegLib.registration.options import RegistrationOptions
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.registration.result import RegistrationResult


class CaseRegistrar:
    """A `Registrar` for `runs.register_cases`. A CT that follows itself, as a patient's cases do, is prepared once.

    Args:
        initial: a named view, a `Start` (C-arm angles) or camera_from_world (4, 4) for all cases; "regressor" asks the model whatever a case says,
            "views" too, or tries all named views where there is none. None: what each case says, and as "views" where it says nothing.
        model: of the cases' CT, or None.
        device: "cpu", "cuda", ...
        seed: the same seed on the same device gives the same poses.
        options: of the registration.
        progress: of each registration.

    Raises:
        InputError: see `check_start`.
    """

    def __init__(
        self,
        initial: str | Start | np.ndarray | None = None,
        *,
        model: Model | None = None,
        device: str = "cpu",
        seed: int = 0,
        options: RegistrationOptions | None = None,
        progress: ProgressCallback = silent,
    ) -> None:
        check_start(initial, model)
        self._initial, self._model, self._device, self._seed, self._progress = initial, model, device, seed, progress
        self._registration = RegistrationOptions() if options is None else options
        self._last: tuple[Volume, VolumePyramid] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What decides the results, as plain values: the `options` of `register_cases`."""
        return {"registration": asdict(self._registration), "initial": _plain(self._initial), "device": self._device, "seed": self._seed}

    def prepared(self, case: Case) -> VolumePyramid:
        """The case's CT, ready to be rendered."""
        if self._last is None or not _same(self._last[0], case.volume):
            self._last = (case.volume, prepare(case.volume, self._registration, self._device))
        return self._last[1]

    def __call__(self, case: Case) -> RegistrationResult:
        start = pose_to_start_from(self._initial, case)  # before the CT is prepared
        return register(
            self.prepared(case),
            case.views,
            start,
            model=self._model,
            options=self._registration,
            device=self._device,
            seed=self._seed,
            progress=self._progress,
        )


def _plain(initial: str | Start | np.ndarray | None) -> Any:
    if isinstance(initial, Start):
        return asdict(initial)
    return initial if initial is None or isinstance(initial, str) else np.asarray(initial).tolist()


def _same(a: Volume, b: Volume) -> bool:
    """Whether two CTs are made ready in the same way; the cheap comparisons come first."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("world_from_voxel", "centre_ras_mm", "valid", "labels", "hu")]
    return a is b or all(x is y or (x is not None and y is not None and np.array_equal(x, y)) for x, y in pairs)
