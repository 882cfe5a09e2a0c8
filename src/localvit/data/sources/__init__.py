"""Sources of images: folders, tables, shards and named datasets. One function opens them all."""

from localvit.data.sources.opening import open_parts, open_val
from localvit.data.sources.parts import Part, Parts

__all__ = ["Part", "Parts", "open_parts", "open_val"]
