"""`python -m pangzhu`: the same as the `pangzhu` command."""

import sys

from pangzhu.cli import main

if __name__ == "__main__":
    sys.exit(main())
