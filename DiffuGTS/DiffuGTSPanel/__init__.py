"""The panel of DiffuGTS in 3D Slicer and the logic behind it."""
