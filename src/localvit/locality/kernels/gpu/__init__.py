"""A Triton kernel for training on GPUs, opt-in through ``localvit.use_triton`` and not measured on a device yet."""
