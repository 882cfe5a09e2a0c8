"""Entry point of the ``localvit`` command: answers ``--help``, ``--version`` and typos before PyTorch is imported.

It lies outside the package, because importing ``localvit`` registers the models with timm, which takes seconds.
"""

import sys


def main() -> int:
    """Run the command line of this process and return the exit status."""
    from localvit.commands.cli import main

    return main(sys.argv[1:])
