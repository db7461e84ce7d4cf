"""Text prompts: the vocabulary, and from a text to a finding and an anatomical site."""
