"""What frozen features of a pretrained model already achieve."""
