"""Public data sets, read by their published folder layout: scans, outlines, prompts."""

from DiffuGTSLib.datasets.case import LabelledCase, Volumes
from DiffuGTSLib.datasets.folder import DataSet, read_dataset

__all__ = ["DataSet", "LabelledCase", "Volumes", "read_dataset"]
