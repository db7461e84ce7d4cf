"""The MRML scene: volumes, segments, evidence, views and sequences."""
