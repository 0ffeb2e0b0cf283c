"""Spectra, materials, tools and the detector, against formulas and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import simpson

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.nist import mass_attenuation
from SphericalRegLib.simulation import detector, difficulty, materials, spectrum, tools, xray

SPACING = (0.8, 0.8)


# ---- materials and spectrum


def test_tables_are_reproduced_and_interpolated_between_neighbours():
    assert mass_attenuation("water", 60.0) == pytest.approx(0.2059)
    assert mass_attenuation("bone", 30.0) == pytest.approx(1.331)
    for name in ("water", "bone", "titanium", "iron", "aluminium"):
        values = mass_attenuation(name, np.linspace(10, 150, 300))
        assert (np.diff(values) < 0).all(), f"{name} has no edge between 10 and 150 keV: its coefficient only falls"


@pytest.mark.parametrize(("name", "energy"), [("lead", 60.0), ("water", 5.0), ("water", 201.0), ("iron", 151.0)])
def test_unknown_material_or_energy_is_refused(name, energy):
    with pytest.raises(ValueError):
        mass_attenuation(name, energy)


def test_mixture_attenuates_as_its_hounsfield_unit_says():
    hu = np.linspace(-1000, materials.METAL_HU, 500)
    densities = materials.tissue_densities(hu)[:, :2]
    mu = densities @ np.array([mass_attenuation(m, materials.CT_EFFECTIVE_KEV) for m in ("water", "bone")])
    water = float(mass_attenuation("water", materials.CT_EFFECTIVE_KEV))
    np.testing.assert_allclose(1000 * (mu / water - 1), hu, atol=0.05)


def test_air_and_padding_hold_nothing_and_metal_is_titanium():
    np.testing.assert_array_equal(materials.tissue_densities(np.array([-1000.0, -2048.0, -3024.0])), 0.0)
    np.testing.assert_allclose(materials.tissue_densities(np.array(3071.0)), [0, 0, 4.5], atol=1e-12)


def test_monoenergetic_transmission_is_beer_lambert():
    areal = np.array([[20.0, 5.0], [0.0, 3.0]])
    mu = [mass_attenuation(m, 55.0) for m in ("water", "bone")]
    expected = np.exp(-(areal[0] * mu[0] + areal[1] * mu[1]))
    np.testing.assert_allclose(spectrum.transmission(areal, spectrum.Spectrum(np.array([55.0]), np.array([1.0]))), expected, rtol=1e-12)


def test_the_beam_hardens():
    beam = spectrum.tungsten_spectrum(80.0, 3.0)
    thickness = np.linspace(0, 30, 61)
    attenuation = -np.log(spectrum.transmission(thickness[None], beam))
    slope = np.diff(attenuation) / np.diff(thickness)
    assert (np.diff(slope) < 0).all()
    assert slope[0] / slope[-1] > 1.15
    filtered, softer = spectrum.tungsten_spectrum(80.0, 10.0), spectrum.tungsten_spectrum(60.0, 3.0)
    mean_kev = [float(one.energy_kev @ one.weight) for one in (filtered, beam, softer)]
    assert mean_kev[0] > mean_kev[1] > mean_kev[2]
    assert beam.energy_kev.max() < 80.0


def test_spectrum_integrates_kramers_law():
    """Against fine quadrature of the textbook formula, with its own interpolation of the aluminium table."""
    table = np.log([[10, 15, 20, 30, 40, 50, 60, 80], [26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018]])
    energy = np.linspace(10, 75, 20_001)
    fluence_times_energy = (75 - energy) * np.exp(-np.exp(np.interp(np.log(energy), *table)) * 2.7 * 0.4)
    through = fluence_times_energy * np.exp(-mass_attenuation("water", energy) * 20.0)
    expected = simpson(through, x=energy) / simpson(fluence_times_energy, x=energy)
    assert spectrum.transmission(np.array([[20.0]]), spectrum.tungsten_spectrum(75.0, 4.0))[0] == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize(("kvp", "filtration"), [(20.0, 3.0), (200.0, 3.0), (80.0, -1.0)])
def test_impossible_tubes_are_refused(kvp, filtration):
    with pytest.raises(ValueError):
        spectrum.tungsten_spectrum(kvp, filtration)


# ---- tools


def test_capsule_chords_across_along_and_through_the_caps():
    capsule = tools.Capsule((0.0, 0.0, 0.0), (0.0, 0.0, 50.0), 2.0)
    across = np.array([1.0, 0.0, 0.0])
    chord = lambda source, direction: float(tools.capsule_chords(np.array(source, float), np.array(direction, float), capsule))  # noqa: E731
    assert chord((-900, 0, 25), across) == pytest.approx(4.0)
    assert chord((-900, 1, 25), across) == pytest.approx(2 * np.sqrt(3))
    assert chord((-900, 0, 51), across) == pytest.approx(2 * np.sqrt(3))  # in the end's sphere
    assert chord((-900, 0, 52.01), across) == 0.0
    assert chord((0, 0, -900), (0, 0, 1)) == pytest.approx(54.0)
    assert chord((1, 0, -900), (0, 0, 1)) == pytest.approx(50 + 2 * np.sqrt(3))
    assert chord((0, 0, -900), (0, 0, -1)) == 0.0  # behind the source
    oblique = np.array([1.0, 0.0, 1.0]) / np.sqrt(2)
    assert chord((-900, 0, 25 - 900), oblique) == pytest.approx(4 * np.sqrt(2))
    assert chord((0, 0, 25), across) == pytest.approx(2.0)  # from inside: only what lies ahead


def test_capsule_chords_match_dense_sampling():
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 60, 60_001)
    for _ in range(20):
        a, b, radius = rng.uniform(-8, 8, 3), rng.uniform(-8, 8, 3), rng.uniform(1, 4)
        source = rng.uniform(-1, 1, 3) + np.array([-30.0, 0, 0])
        direction = rng.uniform(-3, 3, 3) - source
        direction /= np.linalg.norm(direction)
        points = source + steps[:, None] * direction
        along = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        inside = np.linalg.norm(points - a - along[:, None] * (b - a), axis=1) < radius
        chord = tools.capsule_chords(source, direction, tools.Capsule(tuple(a), tuple(b), radius))
        assert float(chord) == pytest.approx(inside.sum() * 1e-3, abs=4e-3)


def test_chords_add_up_and_a_point_capsule_is_a_sphere():
    ball = tools.Capsule((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 3.0)
    directions = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(tools.tool_chords(np.array([-50.0, 0, 0]), directions, (ball, ball)), [12.0, 0.0])


def test_a_wire_far_away_keeps_its_digits():
    wire = tools.Capsule((-100.0, 0.0, 0.0), (100.0, 0.0, 0.0), 0.5)
    offset = np.linspace(0, 0.49, 20)
    chords = [float(tools.capsule_chords(np.array([0.0, y, -2e5]), np.array([0.0, 0.0, 1.0]), wire)) for y in offset]
    np.testing.assert_allclose(chords, 2 * np.sqrt(0.25 - offset**2), rtol=1e-6)


# ---- detector


def test_poisson_mean_and_variance_at_the_stated_dose():
    signal = np.full((400, 400), 0.02)
    field = np.ones_like(signal, bool)
    quanta = detector.open_field_quanta(signal, 500.0, field, SPACING)
    expected = 500.0 * 0.64  # per pixel behind the object
    counts = detector.add_noise(signal, quanta, 0.0, np.random.default_rng(1)) * quanta
    assert counts.mean() == pytest.approx(expected, rel=2e-3)
    assert counts.var() == pytest.approx(expected, rel=2e-2)
    noisier = detector.add_noise(signal, quanta, 20.0, np.random.default_rng(1)) * quanta
    assert noisier.var() == pytest.approx(expected + 400.0, rel=2e-2)


def test_counts_are_16_bit_and_saturate():
    counts = detector.to_counts(np.array([-0.1, 0.0, 0.5, 1.0, 3.0]), 1.0)
    assert counts.dtype == np.uint16
    np.testing.assert_array_equal(counts, [0, 0, 32768, 65535, 65535])


def test_display_is_monotone_uses_all_greys_and_inverts():
    signal = np.geomspace(0.05, 1.0, 4096).reshape(64, 64)
    field = np.ones_like(signal, bool)
    curve = detector.DisplayCurve((0.0, 100.0), 0.8, 3.0)
    grey = detector.to_display(signal, field, curve, SPACING)
    assert grey.dtype == np.uint8
    assert (np.diff(grey.ravel().astype(int)) >= 0).all()
    assert (grey.min(), grey.max()) == (0, 255)
    inverted = detector.to_display(signal, field, detector.DisplayCurve((0.0, 100.0), 0.8, 3.0, inverted=True), SPACING)
    assert np.abs(255 - inverted.astype(int) - grey).max() <= 1


def test_blanking_is_black_even_when_inverted():
    field = np.zeros((32, 32), bool)
    field[8:24, 8:24] = True
    signal = np.random.default_rng(0).uniform(0.1, 1, (32, 32))
    grey = detector.to_display(signal, field, detector.DisplayCurve(inverted=True, blanked=True), SPACING)
    assert (grey[~field] == 0).all() and grey[field].max() > 200


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_rectangular_shutter(angle):
    shutter = detector.Shutter("rectangle", (100.0, 60.0), (40.3, 20.3), angle, 0.5)
    distance = detector.shutter_distance_mm(shutter, (160, 240), (0.8, 0.8))
    assert (distance > 0).sum() * 0.64 == pytest.approx(80.6 * 40.6, rel=0.02)
    rows, columns = np.nonzero(distance > 0)
    assert (columns.mean(), rows.mean()) == (pytest.approx(100, abs=0.1), pytest.approx(60, abs=0.1))
    turn = np.deg2rad(angle)
    tip = np.rint([100 + 38.3 * np.cos(turn) / 0.8, 60 + 38.3 * np.sin(turn) / 0.8]).astype(int)  # from columns towards rows
    assert distance[tip[1], tip[0]] == pytest.approx(2.0, abs=0.8)
    opening = detector.shutter_opening(shutter, (160, 240), (0.8, 0.8))
    assert opening[60, 100] > 0.999 and opening[0, 239] < 1e-3


def test_round_shutter_and_none():
    distance = detector.shutter_distance_mm(detector.Shutter("circle", (50.0, 50.0), (30.0, 99.0)), (101, 101), (0.8, 0.8))
    assert (distance > 0).sum() * 0.64 == pytest.approx(np.pi * 900, rel=0.02)
    assert (detector.shutter_opening(None, (4, 4), SPACING) == 1).all()
    with pytest.raises(ValueError, match="triangle"):
        detector.shutter_distance_mm(detector.Shutter("triangle", (0, 0), (1, 1)), (4, 4), SPACING)


def test_scatter_has_the_stated_ratio_and_none_comes_from_air():
    rng = np.random.default_rng(0)
    primary = np.exp(-rng.uniform(1, 4, (128, 128)))
    field = np.ones_like(primary, bool)
    scattered = detector.scatter(primary, field, 0.4, 20.0, SPACING)
    assert np.median(scattered) == pytest.approx(0.4 * np.median(primary), rel=1e-6)
    assert scattered.std() / scattered.mean() < 0.1 * primary.std() / primary.mean()
    assert (detector.scatter(np.ones((16, 16)), np.ones((16, 16), bool), 0.4, 20.0, SPACING) == 0).all()


def test_blur_keeps_the_sum_and_has_the_stated_width():
    image = np.zeros((101, 121))
    image[50, 60] = 1.0
    blurred = detector.blur(image, 2.4, (0.8, 1.2))
    y, x = np.mgrid[:101, :121]
    assert blurred.sum() == pytest.approx(1.0)
    assert np.sqrt((blurred * (x - 60) ** 2).sum()) * 0.8 == pytest.approx(2.4, rel=0.02)
    assert np.sqrt((blurred * (y - 50) ** 2).sum()) * 1.2 == pytest.approx(2.4, rel=0.02)


# ---- levels and the whole chain


def test_levels_by_name():
    assert list(difficulty.DIFFICULTIES) == ["clean", "realistic", "hard"]
    assert difficulty.difficulty("hard") is difficulty.HARD
    with pytest.raises(InputError, match="clean, realistic, hard"):
        difficulty.difficulty("easy")


@pytest.mark.parametrize("level", difficulty.DIFFICULTIES.values(), ids=lambda level: level.name)
def test_exposures_lie_in_the_written_ranges_and_repeat(level):
    drawn = [difficulty.draw_exposure(level, (200, 160), SPACING, np.random.default_rng(i)) for i in range(40)]
    assert drawn[3] == difficulty.draw_exposure(level, (200, 160), SPACING, np.random.default_rng(3))
    for name in ("kvp", "filtration_mm_al", "scatter_ratio", "dose_quanta_per_mm2", "full_well", "shading"):
        low, high = getattr(level, name)
        assert all(low * (1 - 1e-9) <= getattr(e, name) <= high * (1 + 1e-9) for e in drawn), name
    for exposure in drawn:
        if exposure.shutter is None:
            assert level.name == "clean"
            continue
        field = detector.shutter_distance_mm(exposure.shutter, (160, 200), SPACING) > 0
        assert field.mean() > 0.2 and not field.all()


def test_a_clean_image_is_the_transmission_up_to_its_noise():
    areal = np.stack([np.linspace(5, 30, 96 * 96).reshape(96, 96), np.zeros((96, 96)), np.zeros((96, 96))])
    exposure = difficulty.draw_exposure(difficulty.CLEAN, (96, 96), SPACING, np.random.default_rng(0))
    image = xray.expose(areal, SPACING, exposure, np.random.default_rng(1))
    assert (image.intensity, image.inverted, image.pixels.dtype) == ("counts", False, np.uint16)
    expected = -np.log(spectrum.transmission(areal, spectrum.tungsten_spectrum(80.0, 4.0)))
    line = -np.log(image.pixels.astype(float))
    inner = slice(4, -4)
    difference = (line - expected)[inner, inner]
    assert np.std(difference) < 0.02 and image.field.all()


def test_realistic_image_is_8_bit_and_air_is_bright_unless_inverted():
    areal = np.zeros((3, 128, 128))
    areal[0, :, 40:] = 15.0
    seen = set()
    for seed in range(12):
        exposure = difficulty.draw_exposure(difficulty.REALISTIC, (128, 128), SPACING, np.random.default_rng(seed))
        image = xray.expose(areal, SPACING, exposure, np.random.default_rng(seed))
        assert image.intensity == "display" and image.pixels.dtype == np.uint8
        air, body = (np.median(image.pixels[30:90, columns]) for columns in (slice(25, 35), slice(60, 100)))
        assert (air < body) == image.inverted
        seen.add(image.inverted)
    assert seen == {True, False}
