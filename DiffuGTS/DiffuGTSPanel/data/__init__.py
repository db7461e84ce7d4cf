"""Plain data of runs, batches and failures."""
