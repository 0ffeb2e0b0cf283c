"""`sphericalreg landscape`: the spherical similarity around the true pose, beside intensity similarities (the paper's Fig. 3).

Two charts of the same poses: se(3), exp of (omega, v) about the CT's centre; and SO(4), where a relative pose is a pair of quaternions
(`geometry.so4.so4_from_se3`) and the six half-angles (Log p, Log q) are its coordinates. A step along one of the latter is a screw: a turn about an
axis and a shift along it. All similarities compare the same two images, in the model's camera.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import make_transform, se3_exp
from SphericalRegLib.geometry.so4 import quaternion_exp, se3_from_so4
from SphericalRegLib.imaging.case import Case
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.registration.learned import intensity_terms, spherical_terms
from SphericalRegLib.registration.problem import MultiViewProblem
from SphericalRegLib.similarity.named import SIMILARITIES
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.landscape import Line, Plane, line_figure, plane_figure

from .as_trained import labels_notes, prepared_as_trained
from .tables import Table, Value, rows_to_csv, write_text
from .truth import Truth

AT_ONCE = 64
SPHERICAL = "spherical"
WORLD = ("R", "A", "S")


@dataclass(frozen=True)
class LandscapeOptions:
    """What is looked at.

    Attributes:
        rotation_deg, translation_mm: how far from the truth, in either direction.
        rho_mm: length of a radian in SO(4): its coordinates reach as far as the rotations, and shift by rho_mm a radian.
        line_points, plane_points: samples along a line, and along each side of a plane.
        similarities: names of `similarity.named` beside the spherical one.
    """

    rotation_deg: float = 30.0
    translation_mm: float = 60.0
    rho_mm: float = 100.0
    line_points: int = 61
    plane_points: int = 31
    similarities: tuple[str, ...] = ("ncc",)

    def __post_init__(self) -> None:
        if not 0 < self.rotation_deg <= 90 or not 0 < self.translation_mm <= 500 or not 10 <= self.rho_mm <= 5000:
            raise InputError(
                f"A landscape over {self.rotation_deg} deg and {self.translation_mm} mm with rho {self.rho_mm} mm cannot be drawn; "
                "expected up to 90 deg, up to 500 mm, and 10 to 5000 mm."
            )
        if min(self.line_points, self.plane_points) < 3:
            raise InputError(f"A landscape has {self.line_points} and {self.plane_points} points a side; expected at least 3.")
        unknown = [name for name in self.similarities if name not in SIMILARITIES]
        if unknown or not self.similarities:
            raise InputError(f"The similarities are {list(self.similarities)}; expected some of {', '.join(SIMILARITIES)}.")


@dataclass(frozen=True)
class Landscape:
    """All lines and planes of a case, and what the reader should know beside them."""

    title: str
    lines: tuple[Line, ...]
    planes: tuple[Plane, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """For each line and similarity: where its best point lies, how many peaks it has, and how wide the basin around the truth is."""
        columns = ("chart", "axis", "unit", "similarity", "best at", "peaks", "basin from", "basin to")
        rows: list[tuple[Value, ...]] = []
        for line in self.lines:
            for name, values in line.values.items():
                low, high = basin(line.offsets, values)
                best = float(line.offsets[int(np.argmax(values))])
                rows.append((line.chart, line.axis, line.unit, name, best, peaks(values), low, high))
        return Table(columns, tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """landscape_lines.png and .csv, landscape_planes.png and .csv, landscape.md and .csv (the table)."""
        heading = (
            f"# Similarity around the true pose: {self.title}\n\nEvery curve is min-max normalised on its own and 1 at its best. "
            "The basin is the interval from which ascent leads to the same peak as from the truth itself."
        ) + "".join(f"\n\n{note}" for note in self.notes)
        files = [*self.table().write(out / "landscape", heading=heading)]
        files.append(write_figure(line_figure(self.lines), out / "landscape_lines.png"))
        files.append(write_figure(plane_figure(self.planes), out / "landscape_planes.png"))
        for name, rows in (("lines", self._line_rows()), ("planes", self._plane_rows())):
            files.append(out / f"landscape_{name}.csv")
            write_text(files[-1], rows_to_csv(rows))
        return files

    def _line_rows(self) -> Iterator[Sequence[Value]]:
        yield ("chart", "axis", "unit", "offset", *self.lines[0].values)
        for line in self.lines:
            for index, offset in enumerate(line.offsets.tolist()):
                yield (line.chart, line.axis, line.unit, offset, *(float(v[index]) for v in line.values.values()))

    def _plane_rows(self) -> Iterator[Sequence[Value]]:
        yield ("chart", "axis 1", "axis 2", "unit 1", "unit 2", "offset 1", "offset 2", *self.planes[0].values)
        for plane in self.planes:
            for i, first in enumerate(plane.offsets[0].tolist()):
                for j, second in enumerate(plane.offsets[1].tolist()):
                    yield (plane.chart, *plane.axes, *plane.units, first, second, *(float(v[i, j]) for v in plane.values.values()))


def landscape(
    case: Case,
    truth: Truth,
    model: Model,
    options: LandscapeOptions = LandscapeOptions(),
    *,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> Landscape:
    """Evaluate the similarities around a case's true pose; all of its views count.

    Args:
        case: the case.
        truth: its truth.
        model: of the case's CT.
        options: see `LandscapeOptions`.
        device: "cpu" or "cuda:N".
        progress: called several times a second.

    Raises:
        InputError: the model was trained on labels that the case does not have.
    """
    pyramid = prepared_as_trained(case, model, device)
    model = model.to(pyramid.device)
    problems = {SPHERICAL: MultiViewProblem(spherical_terms(pyramid, case.views, model))}
    for name in options.similarities:
        problems[name] = MultiViewProblem(intensity_terms(pyramid, case.views, model, name))
    pose = torch.from_numpy(truth.camera_from_world).to(pyramid.device)
    charts = _charts(pose, pyramid.centre, options)
    points = [np.linspace(-1.0, 1.0, count) for count in (options.line_points, options.plane_points)]
    total = sum(6 * len(points[0]) + len(PLANES) * len(points[1]) ** 2 for _ in charts)
    done = 0

    def score(chart: _Chart, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Values (P,) at steps (P, 6), in units of the chart's reach."""
        nonlocal done
        found: dict[str, list[np.ndarray]] = {name: [] for name in problems}
        for part in torch.from_numpy(steps).to(pyramid.device).split(AT_ONCE):
            progress(Progress("landscape", done, total))
            poses = chart.poses(part)
            for name, problem in problems.items():
                found[name].append(problem.score(poses).double().cpu().numpy())
            done += len(part)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    lines, planes = [], []
    with torch.no_grad():
        for chart in charts:
            for axis in range(6):
                steps = np.zeros((len(points[0]), 6))
                steps[:, axis] = points[0]
                lines.append(Line(chart.name, chart.axes[axis], chart.units[axis], points[0] * chart.reach[axis], score(chart, steps)))
            for a, b in PLANES:
                steps = np.zeros((len(points[1]), len(points[1]), 6))
                steps[..., a], steps[..., b] = points[1][:, None], points[1][None]
                values = {name: v.reshape(steps.shape[:2]) for name, v in score(chart, steps.reshape(-1, 6)).items()}
                offsets = points[1] * chart.reach[a], points[1] * chart.reach[b]
                planes.append(Plane(chart.name, (chart.axes[a], chart.axes[b]), (chart.units[a], chart.units[b]), offsets, values))
    progress(Progress("landscape", total, total))
    return Landscape(case.name, tuple(lines), tuple(planes), labels_notes(model))


PLANES = ((0, 1), (3, 5), (0, 3))
"""Pairs of coordinates that planes are drawn over."""


@dataclass(frozen=True)
class _Chart:
    """Six coordinates about the truth: `poses` takes steps (P, 6) in units of their `reach` (in `units`)."""

    name: str
    axes: tuple[str, ...]
    units: tuple[str, ...]
    reach: tuple[float, ...]
    poses: Callable[[Tensor], Tensor]


def _charts(pose: Tensor, centre: Tensor, options: LandscapeOptions) -> tuple[_Chart, _Chart]:
    to_centre = make_transform(torch.eye(3, dtype=pose.dtype, device=pose.device), centre)
    turn = math.radians(options.rotation_deg)

    def moved(motion: Tensor) -> Tensor:
        """Poses after motions (P, 4, 4) of the CT about its centre."""
        return pose @ to_centre @ motion @ torch.linalg.inv(to_centre)

    def se3(steps: Tensor) -> Tensor:
        return moved(se3_exp(steps * steps.new_tensor([turn] * 3 + [options.translation_mm] * 3)))

    def so4(steps: Tensor) -> Tensor:
        return moved(se3_from_so4(quaternion_exp(turn * steps[:, :3]), quaternion_exp(turn * steps[:, 3:]), options.rho_mm))

    reach = (options.rotation_deg,) * 3
    turns, shifts = tuple(f"turn about {w}" for w in WORLD), tuple(f"shift along {w}" for w in WORLD)
    p, q = tuple(f"Log p, {w}" for w in WORLD), tuple(f"Log q, {w}" for w in WORLD)
    return (
        _Chart("se(3)", turns + shifts, ("deg",) * 3 + ("mm",) * 3, reach + (options.translation_mm,) * 3, se3),
        _Chart("SO(4)", p + q, ("deg",) * 6, reach * 2, so4),
    )


def peaks(values: np.ndarray) -> int:
    """Local maxima of a curve; a plateau is one, and an end that is higher than its neighbour counts."""
    changes = np.sign(np.diff(values))
    changes = changes[changes != 0]
    return int((np.diff(changes) < 0).sum() + (changes[:1] < 0).sum() + (changes[-1:] > 0).sum())


def basin(offsets: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """(from, to): where on either side of the truth (offset 0) ascent leads to the same peak as from the truth itself."""
    top = int(np.abs(offsets).argmin())
    while True:
        higher = [near for near in (top - 1, top + 1) if 0 <= near < len(values) and values[near] > values[top]]
        if not higher:
            break
        top = max(higher, key=lambda index: values[index])
    high = low = top
    while high + 1 < len(values) and values[high + 1] < values[high]:
        high += 1
    while low > 0 and values[low - 1] < values[low]:
        low -= 1
    return float(offsets[low]), float(offsets[high])
