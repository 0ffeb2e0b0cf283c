"""Case folders with simulated X-rays, as `register`, `batch` and `evaluate` read them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import torch
from PIL import Image

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.views import NAMED_VIEWS, named_view
from SphericalRegLib.imaging.files import read_json_object, write_atomically, write_json
from SphericalRegLib.imaging.geometry_file import write_geometry
from SphericalRegLib.imaging.grid import is_sheared
from SphericalRegLib.imaging.nist import DENSITY_G_PER_CM3
from SphericalRegLib.imaging.reading import read_grid
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.progress import Progress, ProgressCallback, pace, silent

from .difficulty import REALISTIC, Difficulty, draw_exposure
from .poses import bone_fiducials, draw_pose, draw_start
from .sampler import RaySampler, world_rays
from .tools import Capsule, clamp, k_wire, screw, tool_chords
from .xray import SimulatedXray, expose

Tick = Callable[[], None]

_PADDING_HU = -2048.0


def flat_panel(
    columns: int = 512, rows: int = 512, sdd_mm: float = 1020.0, width_mm: float = 400.0, offset_mm: tuple[float, float] = (0.0, 0.0)
) -> Camera:
    """A C-arm's flat detector with square pixels; the principal point lies `offset_mm` (right, down) of the image's middle."""
    spacing = width_mm / columns
    middle = ((columns - 1) / 2 + offset_mm[0] / spacing, (rows - 1) / 2 + offset_mm[1] / spacing)
    return Camera(sdd_mm, (spacing, spacing), (columns, rows), middle)


@dataclass(frozen=True)
class SimulationOptions:
    """What a set of cases is drawn from.

    Attributes:
        level: physics and disturbances.
        views: named views; case n takes the n-th, and again from the first.
        second_view: named view of a second X-ray of each case (its `camera2_from_camera1` is known exactly), or None.
        rotation_range_deg: each pose is turned by up to this about each world axis, uniformly.
        translation_range_mm: and shifted by up to this to the right, down and in depth (camera axes), uniformly.
        c_arm: poses are drawn from this range about each view instead (its own views do not count), as a model's training draws them.
        sod_fraction: depth of the CT's centre before the shift, as a fraction of the SDD.
        camera: intrinsics of every X-ray (of the un-mirrored image).
        start_sigma_deg, start_sigma_mm: standard deviation per axis of the start's rotation and translation about the truth.
        mirrored: images are stored mirrored, as seen from the detector's side.
        fiducials: number of bone points in truth.json.
        step_mm: sampling step along the rays; None lets the sampler choose.
        seed: of everything; case n of a seed is the same whatever else is made.

    Raises:
        InputError: for a value that cannot be used.
    """

    level: Difficulty = REALISTIC
    views: tuple[str, ...] = ("ap",)
    second_view: str | None = None
    rotation_range_deg: float = 15.0
    translation_range_mm: tuple[float, float, float] = (20.0, 20.0, 40.0)
    c_arm: PoseRange | None = None
    sod_fraction: float = 0.75
    camera: Camera = field(default_factory=flat_panel)
    start_sigma_deg: float = 5.0
    start_sigma_mm: float = 10.0
    mirrored: bool = False
    fiducials: int = 100
    step_mm: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for view in (*self.views, *([self.second_view] if self.second_view else [])):
            if view not in NAMED_VIEWS:
                raise InputError(f"there is no view {view!r}: known are {', '.join(NAMED_VIEWS)}")
        if not self.views:
            raise InputError("simulation needs at least one view")
        if not 0.0 < self.sod_fraction < 1.0:
            raise InputError(f"sod_fraction must lie between 0 and 1 (the CT between source and detector), not {self.sod_fraction:g}")
        if self.fiducials < 1:
            raise InputError(f"the number of fiducials must be at least 1, not {self.fiducials}")
        numbers = (self.rotation_range_deg, *self.translation_range_mm, self.start_sigma_deg, self.start_sigma_mm)
        if len(self.translation_range_mm) != 3 or not all(np.isfinite(n) and n >= 0.0 for n in numbers):
            raise InputError(f"ranges and standard deviations must be finite and not negative, with three translation ranges, not {numbers}")
        if self.step_mm is not None and not 0.05 <= self.step_mm <= 20.0:
            raise InputError(f"the sampling step must lie in 0.05-20 mm, not {self.step_mm:g}")
        if self.seed < 0:
            raise InputError(f"the seed must not be negative, not {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for simulation.json."""
        return _plain(asdict(self))


def draw_tools(level: Difficulty, around: np.ndarray, extent_mm: float, rng: np.random.Generator) -> tuple[Capsule, ...]:
    """Wires, screws and clamps near `around` (world, mm) as the level allows."""
    capsules: list[Capsule] = []
    for most, make in ((level.wires, k_wire), (level.screws, screw), (level.clamps, clamp)):
        least = min(most, 1) if level.always_tools else 0
        for _ in range(int(rng.integers(least, most + 1))):
            capsules += make(rng, around, extent_mm)
    return tuple(capsules)


def simulate_xray(
    sampler: RaySampler,
    camera: Camera,
    camera_from_world: np.ndarray,
    level: Difficulty,
    rng: np.random.Generator,
    tools: tuple[Capsule, ...] = (),
    tick: Tick | None = None,
) -> tuple[SimulatedXray, dict[str, Any]]:
    """An X-ray of the sampler's CT from a pose (4, 4), and the settings that were drawn for it (plain values).

    Args:
        sampler: holds the CT; its `extend_mm` should be the level's `continued_mm`.
        camera: intrinsics.
        level: what the exposure is drawn from.
        rng: for exposure and noise.
        tools: metal in the beam, world mm.
        tick: called several times a second; may raise to cancel.
    """
    exposure = draw_exposure(level, camera.size_px, camera.pixel_spacing_mm, rng)
    densities = sampler.areal_densities(camera, camera_from_world, tick)
    if tools:
        iron = 0.1 * DENSITY_G_PER_CM3["iron"] * tool_chords(*world_rays(camera, camera_from_world), tools)
        densities = np.concatenate([densities, iron[None]])
    return expose(densities, camera.pixel_spacing_mm, exposure, rng), _plain(asdict(exposure))


def simulate_case(
    sampler: RaySampler, folder: Path, ct: str, options: SimulationOptions, index: int, *, labels: str | None = None, tick: Tick | None = None
) -> None:
    """Write case `index` of a set as `folder`, whole or not at all.

    Args:
        sampler: holds the CT.
        folder: where; its parent must exist, it must not.
        ct: path of the CT, as case.json gives it (relative to the folder).
        options: what is drawn from.
        index: number of the case; it decides the view and, with the seed, all that is random.
        labels: path of the CT's label map for case.json.
        tick: called several times a second; may raise to cancel.

    Raises:
        InputError: too few bone voxels in the field of view.
    """
    rng = np.random.default_rng([options.seed, index])
    camera, volume = options.camera, sampler.volume
    names = (options.views[index % len(options.views)], *([options.second_view] if options.second_view else []))
    poses = [_draw_view(name, options, volume.centre_ras_mm, rng) for name in names]
    start = draw_start(poses[0], volume.centre_ras_mm, options.start_sigma_deg, options.start_sigma_mm, rng)
    extent = 0.15 * options.sod_fraction * min(n * s for n, s in zip(camera.size_px, camera.pixel_spacing_mm))
    tools = draw_tools(options.level, volume.centre_ras_mm, extent, rng)
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        exposures = []
        for number, pose in enumerate(poses, start=1):
            xray, drawn = simulate_xray(sampler, camera, pose, options.level, rng, tools, tick)
            exposures.append(drawn)
            relation = {} if number == 1 else {"camera_from_camera1": pose @ np.linalg.inv(poses[0]), "view": number}
            _write_view(unfinished, number, xray, options, initial=start if number == 1 else None, relation=relation)
            if number == 1:
                fiducials = bone_fiducials(volume, camera, pose, xray.field, options.fiducials, rng)
        write_json(unfinished / "truth.json", {"camera_from_world": poses[0].tolist(), "fiducials_ras_mm": np.round(fiducials, 4).tolist()})
        write_json(unfinished / "case.json", {"ct": ct, **({"labels": labels} if labels else {})})
        record = {"index": index, "views": list(names), "exposures": exposures, "tools": _plain([asdict(t) for t in tools])}
        write_json(unfinished / "simulation.json", {"options": options.to_dict(), "volume": _fingerprint(volume), **record})
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def simulate_cases(
    volume: Volume,
    out_dir: str | Path,
    count: int,
    options: SimulationOptions | None = None,
    *,
    ct: str | Path | None = None,
    threads: int | None = None,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> list[Path]:
    """Make `count` case folders `case_000`, `case_001`, ... that share one CT; those that are there already (same options) are kept.

    The number in a name has as many digits as the first call needed, three at least.

    Args:
        volume: the CT.
        out_dir: folder of the set.
        count: number of cases.
        options: what the cases are drawn from.
        ct: the CT's file or DICOM folder; case.json then points there. Without it, the volume (and its labels) is written to `out_dir` once: as
            NIfTI, or as NRRD where its grid is sheared.
        threads: cores for the rays; default all.
        device: "cpu" or "cuda:N".
        progress: called several times a second, with rate and time left.

    Returns:
        The folders.

    Raises:
        InputError: the folder holds cases made with other options or of another CT, or that CT's file, or is a file; the CT's file is missing, the
            CT is too small, or a field of view shows too little bone.
    """
    options = options or SimulationOptions()
    out = Path(out_dir)
    if count < 1:
        raise InputError(f"the number of cases must be at least 1, not {count}")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder for the cases")
    if ct is not None and not Path(ct).exists():
        raise InputError(f"the CT {ct} does not exist")
    width = _digits(out, count)
    folders = [out / f"case_{index:0{width}d}" for index in range(count)]
    fingerprint = _fingerprint(volume)
    missing = [index for index, folder in enumerate(folders) if not _is_made(folder, options, fingerprint)]
    if not missing:
        progress(Progress("simulate", count, count, "all there"))
        return folders
    progress(Progress("simulate", count - len(missing), count, "preparing the CT"))
    if ct is None:
        _refuse_another_ct(volume, out)
    sampler = RaySampler(volume, step_mm=options.step_mm, extend_mm=options.level.continued_mm, threads=threads, device=device)
    out.mkdir(parents=True, exist_ok=True)
    ct_path, *labels = _write_ct(volume, out) if ct is None else [Path(ct)]
    begin = time.perf_counter()
    for done, index in enumerate(missing):
        message = f"{folders[index].name} {pace(time.perf_counter() - begin, done, len(missing))}".strip()
        tick = partial(progress, Progress("simulate", count - len(missing) + done, count, message))
        tick()
        relative_labels = _relative(labels[0], folders[index]) if labels else None
        simulate_case(sampler, folders[index], _relative(ct_path, folders[index]), options, index, labels=relative_labels, tick=tick)
    progress(Progress("simulate", count, count, pace(time.perf_counter() - begin, len(missing), len(missing))))
    return folders


def _draw_view(name: str, options: SimulationOptions, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if options.c_arm is not None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return replace(options.c_arm, views=(name,)).sample(1, options.camera, centre.tolist(), generator)[0].numpy()
    view = named_view(name, options.camera, centre.tolist(), options.sod_fraction).numpy()
    return draw_pose(view, centre, options.rotation_range_deg, options.translation_range_mm, rng)


def _write_view(
    folder: Path, number: int, xray: SimulatedXray, options: SimulationOptions, initial: np.ndarray | None, relation: dict[str, Any]
) -> None:
    suffix = "" if number == 1 else f"_{number}"
    pixels = xray.pixels[:, ::-1] if options.mirrored else xray.pixels
    camera = options.camera.flip_columns() if options.mirrored else options.camera
    image = Image.fromarray(np.ascontiguousarray(pixels))
    write_atomically(folder / f"xray{suffix}.png", lambda path: image.save(path, format="PNG"))
    write_geometry(
        folder / f"geometry{suffix}.json",
        camera,
        intensity=xray.intensity,
        inverted=xray.inverted,
        mirrored=options.mirrored,
        initial_camera_from_world=initial,
        **relation,
    )


def _digits(out: Path, count: int) -> int:
    """Digits of the number in a case's name: as many as most cases have that are there, else as many as `count` of them need."""
    present = [len(folder.name.removeprefix("case_")) for folder in out.glob("case_*") if folder.name.removeprefix("case_").isdigit()]
    return mode(present) if present else max(3, len(str(count - 1)))


def _ct_files(volume: Volume, out: Path) -> Iterator[tuple[Path, Volume]]:
    """The files of a CT in `out` and what they are to hold: its Hounsfield units, with padding as it is known on reading, and its labels."""
    suffix = ".nrrd" if is_sheared(volume.world_from_voxel) else ".nii.gz"
    hu = volume.hu if volume.valid is None else np.where(volume.valid, volume.hu, np.float32(_PADDING_HU))
    yield out / f"ct{suffix}", Volume(hu, volume.world_from_voxel, name=volume.name)
    if volume.labels is not None:
        yield out / f"labels{suffix}", Volume(volume.labels, volume.world_from_voxel, name=f"the labels of {volume.name}")


def _refuse_another_ct(volume: Volume, out: Path) -> None:
    """Raise InputError if a file that `_write_ct` would keep holds something else."""
    for path, content in _ct_files(volume, out):
        if path.exists() and not _holds(path, content):
            other = "other labels than those" if path.name.startswith("labels") else "another CT than the one"
            raise InputError(f"{path} holds {other} given: delete it and the cases beside it, or choose another folder")


def _holds(path: Path, content: Volume) -> bool:
    stored = read_grid(path)
    return np.array_equal(stored.values, content.hu) and np.allclose(stored.world_from_voxel, content.world_from_voxel, atol=1e-3)


def _write_ct(volume: Volume, out: Path) -> list[Path]:
    """Write the CT's files that are not there yet; the paths of the CT and, where it has labels, of these."""
    paths = []
    for path, content in _ct_files(volume, out):
        if not path.exists():
            content.write(path)
        paths.append(path)
    return paths


def _relative(path: Path, folder: Path) -> str:
    """Path as seen from a case folder, with forward slashes; absolute where no relative one exists (another drive)."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def _is_made(folder: Path, options: SimulationOptions, volume: dict[str, Any]) -> bool:
    """Whether a case is there.

    Raises:
        InputError: it is, and was made with other options or of another CT.
    """
    if not folder.exists():
        return False
    made = read_json_object(folder / "simulation.json", "simulation record")
    if made.get("options") != options.to_dict():
        raise InputError(f"{folder} was simulated with other options: choose another folder or delete it")
    if made.get("volume") != volume:
        raise InputError(f"{folder} was simulated from another CT: choose another folder for the cases, or delete {folder.parent}")
    return True


def _fingerprint(volume: Volume) -> dict[str, Any]:
    """Enough of a CT to tell it from another, whatever its name and memory order."""
    hu = volume.hu
    moments = [round(float(value), 2) for value in (hu.mean(dtype=np.float64), hu.std(dtype=np.float64))]
    return {"shape": list(hu.shape), "world_from_voxel": np.round(volume.world_from_voxel, 4).tolist(), "mean_and_deviation_hu": moments}


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))
