"""Ensembles of finalists: rows beside the ranked table, and a predictor."""
