"""Hydra config groups, as package data."""
