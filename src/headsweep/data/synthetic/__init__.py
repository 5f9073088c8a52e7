"""A synthetic data set in CT-RATE's layout."""
