"""Results as text, labelmap, figure and thumbnail."""
