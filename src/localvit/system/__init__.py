"""The process and what surrounds it: its errors, files, terminal, cores and memory."""
