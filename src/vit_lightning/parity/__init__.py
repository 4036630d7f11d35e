"""Showing that weights compute what they should."""
