"""Where images come from: folders, files of rows, shards, named sets; one function opens them all."""

from localvit.data.sources.opening import open_parts, open_val
from localvit.data.sources.parts import Part, Parts

__all__ = ["Part", "Parts", "open_parts", "open_val"]
