"""Pictures: where they come from, what is done to them, in which order they are read."""
