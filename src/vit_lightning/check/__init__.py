"""What is in a data set that nobody has looked at."""
