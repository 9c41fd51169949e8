"""`python -m bnlint`."""

import os
import sys

# `python -m` puts the working folder first: a click.py or json.py of the project must not stand in for the library.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - as text
    del sys.path[0]

from bnlint.cli import main

if __name__ == "__main__":
    sys.exit(main())
