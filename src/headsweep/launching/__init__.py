"""Launching: starting workers and watching over them."""
