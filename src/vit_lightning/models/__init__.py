"""The models: they import torch and nothing else of the package but its errors."""
