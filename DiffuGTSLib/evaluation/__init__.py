"""Scores of a model on labelled scans: metrics, tables, report."""
