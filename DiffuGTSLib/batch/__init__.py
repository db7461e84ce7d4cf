"""Many scans: on this machine or on a Ray cluster."""
