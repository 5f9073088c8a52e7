"""The sections of `gpu.py`, and what they share."""
