"""Weights between files and state dicts; nothing here knows a module class."""
