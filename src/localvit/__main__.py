"""``python -m localvit``."""

import sys

from localvit.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
