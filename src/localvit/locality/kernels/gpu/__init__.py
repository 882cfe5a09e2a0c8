"""Triton kernels for GPUs: in training ``form``, in fused models ``inference``.

``depthwise`` and ``normalized`` launch, through ``launch``, the kernels of ``convolution`` and ``passes``.
"""
