"""``localvit models``."""

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.progress import track
from rich.table import Table

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import ERRORS, RESULTS

if TYPE_CHECKING:
    from localvit.models.catalog import CatalogEntry


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("models", "[--json]", "List the models of the paper and their baselines.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Count and print."""
    from localvit.models.catalog import PUBLISHED, catalog

    def run() -> int:
        entries = list(track(catalog(), "Counting", len(PUBLISHED), console=ERRORS, transient=True))
        if options.json:
            print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        else:
            RESULTS.print(_table(entries))
        return 0

    return run


def _table(entries: "list[CatalogEntry]") -> Table:
    table = Table(caption="Costs for one 3 x 224 x 224 image and 1000 classes; ImageNet-1k top-1 as published.")
    table.add_column("model", no_wrap=True)
    for header in ("parameters", "MACs", "top-1 %"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("baseline", overflow="fold")
    for entry in entries:
        top1 = "–" if entry.top1 is None else f"{entry.top1:g}"
        table.add_row(entry.name, f"{entry.parameters:,}", f"{entry.macs:,}", top1, entry.baseline or "")
    return table
