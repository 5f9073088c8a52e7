"""Colours of the figures."""

INK = "#0a0b0c"
"""Replaced by the page's text colour, light or dark."""
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = (
    "#3d85c6",
    "#d9822b",
    "#2a9d6f",
    "#9a6fc4",
    "#d1495b",
    "#8a8f98",
)
