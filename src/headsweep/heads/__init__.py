"""Heads on frozen features, as plain PyTorch modules."""
