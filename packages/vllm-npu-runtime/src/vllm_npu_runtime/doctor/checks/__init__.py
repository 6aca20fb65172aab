"""The checks: one file, one question, one function `check`. `registry.py` lists them."""
