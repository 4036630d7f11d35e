"""How far apart two models are in what they compute."""

import torch

from vit_lightning.models.vit import VisionTransformer

_SEED, _PICTURES = 0, 2


def largest_difference(model: VisionTransformer, twin: VisionTransformer) -> float:
    """The most that two models' outputs differ by on two random pictures.

    Of logits, or where they have not the same head of the features of the last tokens.

    Args:
        model: one of them; it is left in the mode that it is in.
        twin: the other, in eval mode, of the same picture size and width.
    """
    generator = torch.Generator().manual_seed(_SEED)
    config = model.config
    shape = (_PICTURES, config.in_channels, *config.image_size)
    pictures = torch.rand(shape, generator=generator) * 2 - 1
    same_head = (config.num_classes, config.representation_size) == (
        twin.config.num_classes,
        twin.config.representation_size,
    )
    if config.num_classes and not any(part.any() for part in model.head.parameters()):
        same_head = False  # a head of zeros shows nothing
    training = model.training
    model.eval()
    with torch.inference_mode():
        if same_head:
            difference = model(pictures) - twin(pictures)
        else:
            difference = model.forward_features(pictures) - twin.forward_features(pictures)
    model.train(training)
    return float(difference.abs().max())
