"""``python -m SphericalRegLib``: the command line."""

from SphericalRegLib.cli import main

if __name__ == "__main__":
    main()
