"""Training data: cases, organs, windows, synthetic lesions."""
