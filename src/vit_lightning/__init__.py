"""vit-lightning: the Vision Transformer in PyTorch and Lightning."""

__version__ = "0.1.0"
