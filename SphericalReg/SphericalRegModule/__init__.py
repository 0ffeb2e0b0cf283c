"""The parts of the SphericalReg module's panel. Loaded by SphericalReg.py alone; a subfolder, so that Slicer takes none of them for a module."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  # Slicer 5.8 and older: said here, before something fails that tells nobody why
    raise ImportError("SphericalReg needs Slicer 5.10 or newer, whose Python is 3.10 or newer.")
