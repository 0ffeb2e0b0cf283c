"""What the documents say exists: files they link to, commands and options they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from SphericalRegLib.cli import load

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CALL = re.compile(r"(?:^|`|sphericalreg )sphericalreg ((?:benchmark )?[a-z]+)((?: [^`\n]*)?)", re.MULTILINE)


def calls() -> list[tuple[str, str, str]]:
    return [(path.name, *found.groups()) for path in DOCUMENTS for found in CALL.finditer(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


def test_commands_and_options_exist() -> None:
    assert calls()
    help_of = {}
    for document, command, rest in calls():
        if command not in help_of:
            shown = CliRunner().invoke(load(), [*command.split(), "--help"])
            assert shown.exit_code == 0, f"{document} names `sphericalreg {command}`"
            help_of[command] = shown.output
        for option in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", rest):
            assert re.search(rf"(?<!\S){re.escape(option)}(?![\w-])", help_of[command]), f"{document}: sphericalreg {command} has no {option}"


def test_the_tutorials_geometry_is_valid() -> None:
    from SphericalRegLib.imaging.geometry_file import parse_geometry

    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        parse_geometry(json.loads(block))


def test_the_python_example_names_what_exists() -> None:
    import SphericalRegLib

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    compile(block, "README.md", "exec")
    for name in re.search(r"from SphericalRegLib import (.*)", block).group(1).split(", "):
        assert hasattr(SphericalRegLib, name)


def test_the_readme_names_all_that_a_case_folder_may_hold() -> None:
    from SphericalRegLib.imaging import geometry_file

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for word in (*geometry_file.KEYS, "case.json", "mask.png", "labels.nii.gz", "truth.json", "--label", "--initial regressor"):
        assert word in text, word


def test_the_architecture_names_every_similarity() -> None:
    from SphericalRegLib.similarity.named import SIMILARITIES

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert ", ".join(f'"{name}"' for name in SIMILARITIES) in text
