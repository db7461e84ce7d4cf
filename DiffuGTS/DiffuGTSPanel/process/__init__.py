"""Child processes, the worker process, and long work in pieces."""
