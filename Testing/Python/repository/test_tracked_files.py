"""What may and may not lie in the repository."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LARGEST_FILE = 3 * 2**20
LONGEST_MODULE, LONGEST_TEST = 450, 600


def tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout: lists the tracked files")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode("utf-8")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8")
    return found


def code_without_comments_and_strings(source: str) -> str:
    kept = (tokenize.NAME, tokenize.OP, tokenize.NUMBER)
    return "".join(token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type in kept)


def test_no_file_is_too_large() -> None:
    assert not [(path.relative_to(ROOT).as_posix(), path.stat().st_size) for path in tracked() if path.stat().st_size > LARGEST_FILE]


def test_no_machine_paths() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/[\w.-]|[A-Z]:\\\\?Users\\")
    allowed = {"Testing/Python/repository/test_tracked_files.py"}
    assert not [(name, match.group()) for name, text in texts().items() if name not in allowed and (match := pattern.search(text))]


def test_modules_stay_readable() -> None:
    lengths = {name: text.count("\n") for name, text in texts().items() if name.endswith(".py")}
    assert not {name: n for name, n in lengths.items() if n > (LONGEST_TEST if name.startswith("Testing/") else LONGEST_MODULE)}


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("devices are never assumed", r"\.cuda\("),
        ("pickles run code when read", r"\bimportpickle|torch\.load\(|pickle\.loads?\(|allow_pickle=True|weights_only=False"),
        ("errors are not swallowed", r"except:|exceptException:pass|exceptBaseException:pass"),
    ],
)
def test_code_that_is_not_written_here(what: str, pattern: str) -> None:
    product = {name: text for name, text in texts().items() if name.endswith(".py") and not name.startswith("Testing/")}
    code = {name: code_without_comments_and_strings(text) for name, text in product.items()}
    assert code, what
    assert not [(name, match.group()) for name, text in code.items() if (match := re.search(pattern, text))], what


def test_licence_and_notice_go_along() -> None:
    assert "Apache License" in (ROOT / "LICENSE.txt").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for sample in (ROOT / "Resources" / "SampleData").glob("*.nii.gz"):
        assert sample.name in notice, f"NOTICE does not say where {sample.name} comes from"
