"""The process and its surroundings: errors, files, terminal, cores, memory and other processes."""
