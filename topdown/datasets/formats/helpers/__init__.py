"""Helpers that readers of several formats share."""
