"""One module a command of ``localvit``: its parser, and what it does with the options; imported when asked for."""
