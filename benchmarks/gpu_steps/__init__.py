"""The steps of ``benchmarks/gpu.py``, and what carries them out."""
