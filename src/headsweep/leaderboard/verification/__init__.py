"""Verification of a leaderboard: finalists are trained again and files compared."""
