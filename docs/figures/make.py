"""Makes the README's pictures again: `python docs/figures/make.py [--demo FOLDER]`.

frames.png comes from the code alone. The others come from what `python run.py demo` left in its output folder (out/demo): demo.png is drawn from its
cases and results, report.png is its report photographed by Chromium where that is installed.
"""

from __future__ import annotations

import argparse
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.imaging.files import read_json_object
from SphericalRegLib.registration.pipeline import prepare
from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.output import render_views
from SphericalRegLib.visualization.panel import PanelRow, before_and_after

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CASES = ("thorax", "pelvis")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGE = (1120, 2060)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=ROOT / "out" / "demo", help="what the demo left behind")
    demo = parser.parse_args().demo
    missing = [name for name in CASES if not (demo / name / "result.json").is_file()]
    if missing:
        words = f"{demo} has no result for {', '.join(missing)}: run `python run.py demo` first, or name its folder with --demo"
        print(f"error: {words}", file=sys.stderr)
        return 2
    runpy.run_path(str(HERE / "frames.py"), run_name="__main__")
    write_figure(before_and_after([panel_row(demo, name) for name in CASES]), HERE / "demo.png", dpi=120)
    photograph(demo / CASES[0] / "report.html", "view-1", HERE / "report.png")
    return 0


def panel_row(demo: Path, name: str) -> PanelRow:
    """A case of the demo with the DRRs at its start and at its result; the truth is not looked at."""
    case = load_case(next((demo / "cases" / name).glob("case_*")))
    result = RegistrationResult.from_dict(read_json_object(demo / name / "result.json", "result"))
    rendered = render_views(result, prepare(case.volume), case.views)[0]
    radiograph = case.views[0].radiograph
    return PanelRow(f"{name}: X-ray", radiograph.image, rendered.drr, radiograph.mask, initial_drr=rendered.initial_drr)


def photograph(page: Path, section: str, picture: Path) -> None:
    """A page from one of its sections on, as a browser shows it; the picture is left as it is where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"{picture.name} left as it is: no Chromium found", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
        size = f"--window-size={PAGE[0]},{PAGE[1]}"
        command = [browser, *options, f"--user-data-dir={folder}/profile", size, f"--screenshot={shot}", f"{page.resolve().as_uri()}#{section}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            colours = image.convert("RGB")
            # The browser scrolls to the section, and leaves as much of the page's ground above it as it scrolled.
            top = ImageChops.difference(colours, Image.new("RGB", colours.size, colours.getpixel((0, 0)))).getbbox()[1]
            colours.crop((0, max(0, top - 16), *colours.size)).save(picture, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main())
