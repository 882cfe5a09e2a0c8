"""Where commands print: results for people and programs, and everything else."""

from rich.console import Console

RESULTS, ERRORS = Console(), Console(stderr=True)
