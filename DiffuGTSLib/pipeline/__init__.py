"""The method from scan and prompt to lesions; segmenter.py reads like METHOD.md."""
