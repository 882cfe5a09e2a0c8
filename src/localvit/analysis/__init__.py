"""Looks inside transformers: how far tokens look, what reaches them, what layers do, and what decisions rest on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
