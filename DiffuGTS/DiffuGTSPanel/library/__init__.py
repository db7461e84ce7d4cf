"""What DiffuGTSLib answers without a run: packages, models, prompts."""
