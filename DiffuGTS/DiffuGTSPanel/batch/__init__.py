"""Batches: queue, controller, files and results."""
