"""Hyperparameter search for heads on frozen features."""
