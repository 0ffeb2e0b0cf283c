#!/usr/bin/env python3
"""The one command: makes ``.venv`` beside this file, installs what is needed, and runs.

    python run.py demo [options]      registers real CTs to simulated X-rays; writes pictures and a report to out/demo
                                      (--train: with a model that is trained first, ten minutes, in place of the one included)
    python run.py test [pytest args]  lint, type check and tests; with arguments, pytest alone with them
    python run.py lint                lint and type check
    python run.py sphericalreg ...    the command line, e.g. ``python run.py sphericalreg inspect my_case``
    python run.py slicer-demo         the Slicer module with a sample case: in Slicer where the environment variable SLICER names it, else on a
                                      stand-in; --screenshot FILE saves a picture, --measure prints rates, latencies and leaks

It uses the standard library alone, and no syntax newer than Python 3.6, so that an old Python can still read the sentence that says it is too old.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (3, 10)
TOO_NEW_FOR_SLICER = (3, 14)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "sphericalreg-installed"
LOG = VENV / "sphericalreg-install.log"
TORCH_INDEX = "SPHERICALREG_TORCH_INDEX_URL"
LINES_OF_A_FAILURE = 25
EXTRAS = {"demo": {"reference"}, "sphericalreg": {"reference"}, "test": {"test", "slicer"}, "slicer-demo": {"slicer"}, "lint": {"test"}}
# What Qt and VTK need of the system, with Debian's names; Testing/Python/conftest.py skips by the same list.
SYSTEM_LIBRARIES = {
    "libEGL.so.1": "libegl1 libgl1-mesa-dri",
    "libGL.so.1": "libgl1",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libfontconfig.so.1": "libfontconfig1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libglib-2.0.so.0": "libglib2.0-0",
}
NO_STAND_IN = (
    "slicer-demo without Slicer runs on Linux (x86_64) with a Python before {}.{} alone; "
    "set the environment variable SLICER to Slicer's executable, and the module opens there"
).format(*TOO_NEW_FOR_SLICER)


class Failure(Exception):
    """Ends the run with a message instead of a traceback."""


def say(message):
    print(f"[run.py] {message}", flush=True)


def succeeds(command, **options):
    """Whether a command starts and exits with 0; what it prints is thrown away."""
    try:
        return subprocess.call([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options) == 0
    except OSError:
        return False


# Python --------------------------------------------------------------------------------------------------------------------------------------


def works(python):
    """Whether `python` starts and is new enough: false for a half-made environment and for one whose interpreter went away."""
    return succeeds([python, "-c", f"import sys; sys.exit(sys.version_info[:2] < {MINIMUM})"])


def newer_python():
    """Another interpreter on this machine that is new enough, or None."""
    names = [f"python3.{minor}" for minor in (13, 12, 11, 10, 14)] + ["python3", "python"]
    return next((path for path in map(shutil.which, names) if path and works(path)), None)


def has_module(name):
    return succeeds([PYTHON, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"])


def make_environment():
    if works(PYTHON) and (has_module("uv") or has_module("pip")):
        return
    if VENV.exists():
        say("the environment in .venv does not work (an interrupted creation, or its Python was removed): making it anew")
        shutil.rmtree(VENV)
    say("making the environment .venv with Python {}.{}.{}".format(*sys.version_info[:3]))
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        said = made.stdout.decode("utf-8", "replace").strip()
        raise Failure(f"{said}\n\nPython's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")


# Installing ----------------------------------------------------------------------------------------------------------------------------------


def logged(command, advice):
    """Runs a quiet installation step; when it fails, shows the end of what it said and what to do."""
    with LOG.open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"$ {' '.join(map(str, command))}\n")
        log.flush()
        code = subprocess.call([str(word) for word in command], cwd=str(ROOT), stdout=log, stderr=subprocess.STDOUT)
    if code:
        tail = "\n".join(LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_OF_A_FAILURE:])
        raise Failure(f"{tail}\n\nThe installation step failed (exit code {code}). {advice}\nThe whole log is in {LOG}")


def installer():
    """The install command: uv, which is many times faster, put into the environment itself; pip where uv cannot be had."""
    if not has_module("uv"):
        succeeds([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "uv"], cwd=str(ROOT))
    if has_module("uv"):
        return [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON]
    say("uv cannot be installed here: going on with pip, which takes longer")
    return [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]


def installed():
    """The digest and the extras of the last complete installation."""
    words = STAMP.read_text(encoding="utf-8").split() if STAMP.exists() and works(PYTHON) else []
    return (words[0], set(words[1:])) if words else ("", set())


def stand_in_exists():
    """Whether there are packages of the extra `slicer` (pyproject.toml) for this system and Python; elsewhere none is installed, without a word."""
    old_enough = [PYTHON if works(PYTHON) else sys.executable, "-c", f"import sys; sys.exit(sys.version_info[:2] >= {TOO_NEW_FOR_SLICER})"]
    return sys.platform.startswith("linux") and platform.machine() == "x86_64" and succeeds(old_enough)


def install(extras):
    """Brings the environment up to date: nothing to do unless pyproject.toml changed, the checkout moved, or another extra is asked for."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    digest, present = installed()
    if digest == wanted and extras <= present:
        return
    make_environment()
    if present:
        say(f"installing what changed (log: {os.path.relpath(str(LOG))})")
    else:
        say(f"installing Python packages: some minutes and several gigabytes the first time (log: {os.path.relpath(str(LOG))})")
        if sys.platform.startswith("linux") and TORCH_INDEX not in os.environ:
            say(f"PyTorch for Linux brings NVIDIA's CUDA packages; without such a GPU, set {TORCH_INDEX} to PyTorch's CPU index to save space")
    advice = "Check the network connection and the free disk space, then run the same command again."
    command = installer()
    if os.environ.get(TORCH_INDEX) and not has_module("torch"):
        logged([*command, "--index-url", os.environ[TORCH_INDEX], "torch", "torchvision"], f"Is {TORCH_INDEX} right? {advice}")
    everything = extras | present
    logged([*command, "--editable", f".[{','.join(sorted(everything))}]"], advice)
    part = STAMP.with_suffix(".part")
    part.write_text(" ".join([wanted, *sorted(everything)]), encoding="utf-8")
    part.replace(STAMP)


def loads(soname):
    return succeeds([PYTHON, "-c", f"import ctypes; ctypes.CDLL({soname!r})"])


def provide_system_libraries():
    """Installs what the Slicer tests need of the system, as root on Debian and Ubuntu; elsewhere says what is missing (the tests skip themselves)."""
    missing = {soname: package for soname, package in SYSTEM_LIBRARIES.items() if not loads(soname)} if sys.platform.startswith("linux") else {}
    if not missing:
        return
    packages = sorted(set(" ".join(missing.values()).split()))
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing system libraries: {' '.join(packages)}")
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        succeeds(["apt-get", "update"], env=environment)
        succeeds(["apt-get", "install", "--yes", "--no-install-recommends", *packages], env=environment)
        missing = {soname: package for soname, package in missing.items() if not loads(soname)}
    if missing:
        names = ", ".join(missing)
        say(f"without {names}, the Slicer panel cannot be shown, and its tests are skipped (Debian, Ubuntu: apt install {' '.join(packages)})")


# The words -----------------------------------------------------------------------------------------------------------------------------------


def run(arguments):
    """Runs a module of the environment; returns its exit code."""
    try:
        return subprocess.call([str(PYTHON), "-m", *arguments], env=dict(os.environ, PYTHONUTF8="1"))
    except KeyboardInterrupt:  # the child was interrupted as well, and has said so
        return 130


def run_all(steps):
    """Runs every step whatever the others did, names those that failed, and returns the first exit code that is not zero."""
    codes = {}
    for title, arguments in steps.items():
        say(title)
        codes[title] = run(arguments)
    failed = [title for title, code in codes.items() if code]
    if failed:
        print(f"[run.py] FAILED: {', '.join(failed)}", file=sys.stderr, flush=True)
    return next((code for code in codes.values() if code), 0)


MOST_WORKERS, WORKER_GIGABYTES = 4, 3
"""Test processes at once, and the memory that each may need."""


def test_processes():
    """How many this machine has cores and memory for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):  # not on Windows
        gigabytes = 2 * WORKER_GIGABYTES
    return max(1, min(cores, MOST_WORKERS, int(gigabytes / WORKER_GIGABYTES)))


CHECKS = {"ruff (lint)": ["ruff", "check", "."], "mypy (types)": ["mypy"]}


def lint(arguments):
    if arguments:
        raise Failure(f"lint takes no arguments, and was given: {' '.join(arguments)}")
    os.chdir(str(ROOT))
    return run_all(CHECKS)


def test(arguments):
    os.chdir(str(ROOT))
    provide_system_libraries()
    if arguments:
        return run(["pytest", *arguments])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a process for every core already
    processes = test_processes()
    at_once = ["--numprocesses", str(processes), "--dist", "worksteal"] if processes > 1 else []
    return run_all({**CHECKS, "pytest": ["pytest", *at_once, "--durations=10"]})


def demo(arguments):
    return run(["SphericalRegLib", "demo", *arguments])


def sphericalreg(arguments):
    return run(["SphericalRegLib", *arguments])


def slicer_demo(arguments):
    """In a real Slicer nothing of the environment is used: the module installs what it needs there itself."""
    script, real = str(ROOT / "Testing" / "Harness" / "slicer_demo.py"), "SLICER" in os.environ
    if not real:
        provide_system_libraries()
    try:
        return subprocess.call([sys.executable if real else str(PYTHON), script, *arguments], env=dict(os.environ, PYTHONUTF8="1"))
    except KeyboardInterrupt:
        return 130


WORDS = {"demo": demo, "test": test, "lint": lint, "sphericalreg": sphericalreg, "slicer-demo": slicer_demo}


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    word = arguments[0]
    if word not in WORDS:
        raise Failure(f"{word!r} is not something run.py can do; it can do: {', '.join(sorted(WORDS))}")
    if word != "slicer-demo":
        install(EXTRAS[word])
    elif "SLICER" not in os.environ:
        if not stand_in_exists():
            raise Failure(NO_STAND_IN)
        install(EXTRAS[word])
    return WORDS[word](arguments[1:])


if __name__ == "__main__":
    if sys.version_info < MINIMUM:
        newer = newer_python()
        if newer is None:
            sys.exit("SphericalReg needs Python {}.{} or newer, and this is Python {}.{}.".format(*MINIMUM, *sys.version_info[:2]))
        sys.exit(subprocess.call([newer, *sys.argv]))
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"[run.py] {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
