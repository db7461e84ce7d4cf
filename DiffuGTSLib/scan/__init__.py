"""Scans: image files, DICOM, modality, grids, phantoms."""
