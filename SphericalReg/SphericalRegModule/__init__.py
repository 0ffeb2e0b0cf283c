"""The parts of the SphericalReg module's panel. Loaded by SphericalReg.py alone; a subfolder, so that Slicer takes none of them for a module."""
