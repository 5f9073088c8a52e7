"""Manifests and feature files on disk → splits in memory."""
