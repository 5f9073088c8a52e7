"""Fused training of many heads on one device; works on slots and arrays, and knows no trials."""
