"""What the parser of command lines and recipes must not do."""

from jsonargparse import set_parsing_settings

# It imports a dataclass of settings by its name, even where only that dataclass fits.
_WITH_SETTINGS = [
    "localvit.LocalityConfig",
    *(f"localvit.{room}" for room in ("locality", "data", "training", "studies")),
]


def import_nothing() -> None:
    """Keep values plain: a recipe with ``{class_path: subprocess.Popen}`` would otherwise build any object it names.

    This holds for all parsers of the process. They import nothing but the rooms that define settings.
    """
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False, import_path_denylist=["*"], import_path_allowlist=_WITH_SETTINGS
    )
