"""Training of the embedded model: data, synthetic lesions, one trainer per part."""
