"""Turn the trials of a finished study into a leaderboard that can be verified."""
