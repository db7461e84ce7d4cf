"""DiffuGTS: tumors in CT and MR, segmented from a text.

Research use, not for clinical decisions.
"""

__version__ = "0.1.0"
