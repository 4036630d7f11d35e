"""Metrics of a classifier and their report."""
