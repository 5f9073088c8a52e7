"""Losses, optimizers, schedules, dropout noise, rounding, and the logistic solver."""
