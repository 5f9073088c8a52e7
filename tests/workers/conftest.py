"""Stores on both databases."""

from tests.postgres import postgres, store_url

__all__ = ["postgres", "store_url"]
