"""How fast a model computes on this machine, why, and what would be faster: ``vit bench``."""
