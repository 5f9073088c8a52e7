"""Metrics of multi-label scores, computed for all slots and labels at once."""
