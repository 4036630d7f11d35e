"""Publishing a model on the Hugging Face Hub, with a card."""
