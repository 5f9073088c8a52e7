"""From the trials of a finished study to a leaderboard that can be defended and reproduced."""
