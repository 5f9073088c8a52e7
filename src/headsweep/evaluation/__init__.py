"""The numbers of any head on any split: predictions, metrics, intervals, paired tests."""
