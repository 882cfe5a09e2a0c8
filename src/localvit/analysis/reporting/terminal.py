"""What an analysis prints: the answer of every measure."""

from rich.console import Console

from localvit.analysis.analysis import Analysis
from localvit.analysis.reporting.wording import answer
from localvit.analysis.table import MEASURES


def print_answers(analysis: Analysis, console: Console) -> None:
    """Print a heading and the sentences of each measure, and why models are missing."""
    for name, measure in MEASURES.items():
        sentences = [*answer(analysis, name), *(f"Not measured. {one}" for one in analysis.sentences(name))]
        if sentences:
            console.print(f"[bold]{measure.title}[/]")
            for sentence in sentences:
                console.print(f"  {sentence}", markup=False, highlight=False)
