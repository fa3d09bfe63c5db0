"""python -m hfxfer is the same as hfxfer."""

import sys

from hfxfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
