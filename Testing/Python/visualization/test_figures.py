"""Convergence figure, qualitative panel, and how figures are written."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.convergence import StageTrace, convergence_figure, stage_traces
from SphericalRegLib.visualization.figures import WEB, png_bytes, themed_svg, write_figure, write_picture
from SphericalRegLib.visualization.panel import (
    FOCUS_MARGIN,
    PanelRow,
    before_and_after,
    difference_figure,
    focused,
    overlay_figure,
    qualitative_panel,
    resized,
)


def row(**changes) -> PanelRow:
    rows, columns = np.indices((40, 50))
    xray = (np.hypot(rows - 20, columns - 25) < 12).astype(np.float32) + 0.01 * columns
    return PanelRow(**({"label": "case", "xray": xray, "drr": np.roll(xray, 2, axis=0)} | changes))


def test_iterations_end_where_the_kept_hypothesis_stood_still():
    costs = np.array([[5.0, 9.0], [4.0, 3.0], [4.0, 2.0], [4.0, 2.0]])
    assert StageTrace("a", 1.0, costs, kept=0).iterations == 1
    assert StageTrace("a", 1.0, costs, kept=1).iterations == 2
    assert StageTrace("a", 1.0, np.array([3.0, 2.0, 1.0])).costs.shape == (3, 1)
    assert StageTrace("screening", 1.0).iterations == 0


def test_stages_of_a_result_file():
    search, refine, several = stage_traces(
        [
            {"name": "search", "seconds": 0.5, "hypotheses": 400, "iterations": 0, "costs": []},
            {"name": "refine 64 px", "seconds": 0.25, "hypotheses": 16, "iterations": 2, "costs": [3.0, 2.0, None]},
            {"name": "x", "seconds": 1, "costs": [[3.0, 2.0], [1.0, 1.5]], "kept": 1},
        ]
    )
    assert search.costs.size == 0 and search.tried == 400
    assert refine.costs.shape == (3, 1) and np.isnan(refine.costs[2, 0]) and refine.tried == 16
    assert several.kept == 1 and several.tried == 2


def test_one_panel_per_iterating_stage_and_one_bar_per_stage():
    several = StageTrace("LM", 1.0, np.array([[3.0, 2.0], [2.0, 1.0]]), kept=1)
    stages = [StageTrace("screening", 0.5), several, StageTrace("fine", 0.25, np.array([2.0, 1.5]))]
    figure = convergence_figure(stages)
    *panels, bar = figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == ["LM", "fine"]
    kept = panels[0].lines[-1]
    np.testing.assert_array_equal(kept.get_ydata(), [2.0, 1.0])
    assert len(panels[0].lines) == 2, "the other hypothesis is drawn too"
    assert [patch.get_width() for patch in bar.patches] == [0.5, 1.0, 0.25]
    assert [patch.get_x() for patch in bar.patches] == [0.0, 0.5, 1.5]
    assert "1.75" in bar.get_xlabel()


def test_stages_that_come_again_are_numbered_and_stand_four_to_a_row():
    search = {"name": "search", "seconds": 0.5}
    refine, fine = ({"name": name, "seconds": 0.5, "costs": [3.0, 2.0]} for name in ("refine", "fine"))
    figure = convergence_figure(stage_traces([search, refine, fine] * 3))
    *panels, bar = figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == ["refine", "fine", "refine (2)", "fine (2)", "refine (3)", "fine (3)"]
    places = [panel.get_subplotspec() for panel in panels]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert len(bar.patches) == 9


def test_stages_that_only_score_still_make_a_figure():
    assert len(png_bytes(convergence_figure([StageTrace("screening", 0.5)]))) > 1000


def test_costs_that_are_not_finite_are_left_out():
    figure = convergence_figure([StageTrace("LM", 1.0, np.array([[np.inf, 3.0], [np.nan, 2.0]]), kept=1)])
    png_bytes(figure)
    assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_bad_stages_are_named():
    with pytest.raises(InputError, match="no stage"):
        convergence_figure([])
    with pytest.raises(InputError, match="hypothesis 2"):
        StageTrace("LM", 1.0, np.zeros((3, 2)), kept=2)
    with pytest.raises(InputError, match="shape"):
        StageTrace("LM", 1.0, np.zeros((3, 2, 2)))


def test_panel_has_four_pictures_a_case():
    figure = qualitative_panel([row(), row(truth_drr=row().xray)])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 9  # and the scale of the signed map
    assert titles[3] == "X-ray red, DRR blue" and titles[7] == "DRRs: truth minus estimate"
    assert len(qualitative_panel([row()]).axes) == 4


def test_differences_against_the_truth_are_on_one_scale():
    """A row that is farther off has stronger colours; DRRs that differ too little for grey values show where they differ."""
    truth = row().xray
    near, far = (np.asarray(qualitative_panel(rows).axes[3].images[0].get_array(), float) for rows in one_and_both(truth))
    assert np.ptp(near, axis=-1).max() > 50 and np.ptp(far, axis=-1).max() < 0.5 * np.ptp(near, axis=-1).max()


def one_and_both(truth: np.ndarray) -> tuple[list[PanelRow], list[PanelRow]]:
    """A row that is 5 % off in brightness, alone and beside one that is 30 % off."""
    near, far = (row(drr=share * truth, truth_drr=truth) for share in (0.95, 0.7))
    return [near], [near, far]


def test_before_and_after_needs_a_start():
    titles = [axes.get_title(loc="left") for axes in before_and_after([row(initial_drr=np.roll(row().xray, 9, axis=1))]).axes]
    assert titles == ["case", "DRR edges at the start", "DRR edges at the result", "X-ray red, DRR blue"]
    with pytest.raises(InputError, match="no DRR at the start"):
        before_and_after([row()])


def test_difference_against_the_truth_is_the_one_drawn():
    """With the estimate at the truth the map is neutral, whatever the X-ray looks like."""
    other = row(xray=np.random.default_rng(0).normal(size=(40, 50)), truth_drr=row().drr)
    picture = qualitative_panel([other]).axes[3].images[0].get_array()
    assert np.ptp(np.asarray(picture)[50:-50, 50:-50].astype(int), axis=-1).max() <= 1  # the white of the map


def test_small_images_are_resized_and_masks_stay_masks():
    mask = np.ones((40, 50), bool)
    mask[:, :5] = False
    large = resized(row(mask=mask), 640)
    assert large.xray.shape == large.drr.shape == large.mask.shape == (512, 640)
    assert large.mask.dtype == bool and large.mask.mean() == pytest.approx(0.9, abs=0.01)


def test_large_images_are_brought_to_the_size_they_are_drawn_at():
    assert resized(row(xray=np.random.default_rng(0).normal(size=(800, 1000)), drr=np.ones((800, 1000))), 640).xray.shape == (512, 640)


def test_a_panel_shows_what_is_around_a_small_ct_and_a_large_one_whole():
    drr, other = np.zeros((100, 120)), np.zeros((100, 120))
    drr[60:80, 100:110] = 1.0
    other[64:84, 100:110] = 2.0
    small = PanelRow("small", np.random.default_rng(0).normal(size=drr.shape), drr, np.ones(drr.shape, bool), truth_drr=other)
    near = focused(small)
    side = round((1 + 2 * FOCUS_MARGIN) * 24)  # of the larger side of what both DRRs reach; the image ends to the right
    assert near.xray.shape == near.mask.shape == near.truth_drr.shape == (side, side)
    assert near.drr.sum() == drr.sum() and near.truth_drr.sum() == other.sum()
    np.testing.assert_array_equal(near.xray, small.xray[(144 - side) // 2 :, 120 - side :][:side])
    outside = replace(small, mask=np.arange(120) < np.full((100, 1), 60))
    assert focused(outside) is outside  # the DRR lies where no pixel counts: a failed registration is shown too
    for wrong in (np.ones((90, 120), bool), np.ones((100, 110), bool)):
        with pytest.raises(InputError, match="mask has shape"):
            focused(replace(small, mask=wrong))
    drr[10:, :] = 1.0
    assert focused(small) is small
    assert focused(PanelRow("empty", small.xray, np.zeros(drr.shape))).drr.shape == drr.shape


@pytest.mark.parametrize("draw", [overlay_figure, difference_figure, lambda r: qualitative_panel([r])])
def test_figures_refuse_images_that_do_not_fit(draw):
    with pytest.raises(InputError, match="drr has shape"):
        draw(row(drr=np.zeros((3, 3))))


@pytest.mark.parametrize("draw", [overlay_figure, difference_figure])
@pytest.mark.parametrize("truth", [None, row().xray])
def test_figures_are_written_whole(tmp_path, draw, truth):
    path = write_figure(draw(row(truth_drr=truth)), tmp_path / "a.png", dpi=60)
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 100
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pictures_come_back_bit_for_bit(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path = write_picture(picture, tmp_path / "p.png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(path.read_bytes()))), picture)


def test_svg_follows_the_theme_and_repeats_itself():
    def draw() -> str:
        return themed_svg(convergence_figure([StageTrace("a <b>", 1.0, np.array([2.0, 1.0]))], WEB), "c")

    text = draw()
    assert text == draw()
    assert text.startswith("<svg") and text.endswith("</svg>")
    assert "#fe00" not in text and "var(--ink)" in text and "var(--stage-0)" in text
    assert "http" not in text


def test_no_global_state():
    """pyplot keeps figures alive and picks a window system: nothing here may import it."""
    imports = "import sys, SphericalRegLib.visualization.report, SphericalRegLib.visualization.panel"
    code = f"{imports}; assert not {{'matplotlib.pyplot', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
