"""Equivalent, faster or smaller ways to compute the mechanism that ``localvit.locality.feed_forward`` defines.

Training: ``forms`` chooses; ``few_passes`` is built from ``norm_act``, ``convolve``, ``attend`` and ``sums``.
Inference: ``fuse``, with ``onednn`` on CPUs. ``gpu`` holds Triton kernels for both.
"""
