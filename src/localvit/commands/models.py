"""``localvit models``."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from rich.progress import track
from rich.table import Table

from localvit.commands.parser import Parser, command_parser
from localvit.models.catalog import PUBLISHED, CatalogEntry, catalog
from localvit.system.terminal import ERRORS, RESULTS


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("models", "[--json]", "The models of the paper and their baselines.")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Count and print."""

    def run() -> int:
        entries = list(track(catalog(), "Counting", len(PUBLISHED), console=ERRORS, transient=True))
        if options.json:
            print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        else:
            RESULTS.print(_table(entries))
        return 0

    return run


def _table(entries: list[CatalogEntry]) -> Table:
    table = Table(caption="Costs of one 3 x 224 x 224 image and 1000 classes; top-1 on ImageNet-1k as published.")
    table.add_column("model", no_wrap=True)
    for header in ("parameters", "MACs", "top-1 %"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("baseline", overflow="fold")
    for entry in entries:
        top1 = "–" if entry.top1 is None else f"{entry.top1:g}"
        table.add_row(entry.name, f"{entry.parameters:,}", f"{entry.macs:,}", top1, entry.baseline or "")
    return table
