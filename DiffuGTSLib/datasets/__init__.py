"""Public data sets, read by their published folder layout: scans, outlines, prompts."""

from DiffuGTSLib.datasets.folder import DataSet, read_dataset
from DiffuGTSLib.datasets.labelled_case import LabelledCase, Volumes

__all__ = ["DataSet", "LabelledCase", "Volumes", "read_dataset"]
