"""Runs: queue, controller, results and thresholds."""
