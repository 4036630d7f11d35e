"""How much a model computes, told from its configuration alone."""

import math

from vit_lightning.models.config import ResNetConfig, Size, ViTConfig


def count_flops(config: ViTConfig) -> int:
    """Floating-point operations of the matrix products and convolutions for one picture.

    Of all tokens in all blocks, as such figures are usually given; where the head reads the class
    token alone, ``VisionTransformer.forward`` does without some of the last block. A multiplication
    and the addition that follows are two.
    """
    dim, tokens = config.embed_dim, config.num_tokens
    (rows, columns), (height, width) = config.grid_size, config.patch_size
    channels = config.resnet.out_channels if config.resnet else config.in_channels
    products = rows * columns * height * width * channels * dim
    if config.resnet is not None:
        products += _stem_products(config.resnet, config.in_channels, config.image_size)
    dense = dim * (4 * dim + 2 * config.mlp_dim)
    products += config.depth * tokens * (dense + 2 * tokens * dim)
    read = tokens if config.pool == "none" else 1
    products += read * dim * (config.representation_size or 0)
    products += read * config.head_features * config.num_classes
    return 2 * products


def _stem_products(config: ResNetConfig, in_channels: int, size: Size) -> int:
    """Multiplications of a hybrid's ResNet."""
    size = _halved(size)
    products = 49 * in_channels * config.width * math.prod(size)
    size, channels = _halved(size), config.width
    for index, depth in enumerate(config.stage_depths):
        features = config.width * 2**index
        for unit in range(depth):
            out = _halved(size) if index and not unit else size
            products += channels * features * math.prod(size)
            products += (9 * features + 4 * features) * features * math.prod(out)
            if channels != 4 * features or out != size:
                products += channels * 4 * features * math.prod(out)
            size, channels = out, 4 * features
    return products


def _halved(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)
