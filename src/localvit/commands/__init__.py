"""One module per ``localvit`` command: its options, and what it does with them.

The modules import PyTorch, and whatever needs it, only inside the functions that do the work, so that ``--help`` and
typos are answered at once.
"""
