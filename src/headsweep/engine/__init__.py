"""Fused training of many heads on one device; speaks slots and arrays, never trials."""
