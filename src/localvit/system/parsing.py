"""What the parser of command lines and recipes must not do."""

from jsonargparse import set_parsing_settings

# It imports a dataclass by its name even where only that dataclass fits.
_OURS = [
    "localvit.LocalityConfig",
    *(f"localvit.{room}.config" for room in ("locality", "data", "training", "studies")),
    "localvit.studies.claims",
]


def import_nothing() -> None:
    """Keep values plain: a recipe with ``{class_path: subprocess.Popen}`` would otherwise build any object it names.

    This holds for all parsers of the process. Only dataclasses of settings can be named.
    """
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False, import_path_denylist=["*"], import_path_allowlist=_OURS
    )
