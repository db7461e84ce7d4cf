"""How the embedded model is built, reproduced and validated."""
