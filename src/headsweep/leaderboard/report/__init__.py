"""The HTML report of a finished study, and its notes in optuna-dashboard."""
