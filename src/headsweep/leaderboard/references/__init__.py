"""Reference rows: scores of methods without a search, on the splits of a leaderboard."""
