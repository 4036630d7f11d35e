"""The nearest neighbours of pictures among those of the training split, by their features.

Weighted as by Wu et al. 2018 ("Unsupervised Feature Learning via Non-Parametric Instance
Discrimination") and by DINO (Caron et al. 2021, appendix E): cosine similarity, votes
exp(similarity / 0.07) of the 20 nearest.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.data.pictures import Labels

MOST_NEIGHBOURS = 20
_TEMPERATURE = 0.07
_AT_ONCE = 1 << 25  # similarities in memory: 128 MB


def neighbours_for(counts: NDArray[np.int64]) -> int:
    """How many neighbours vote: 20, or as many as half of the classes have pictures.

    Args:
        counts: (C,) training pictures of each class.
    """
    present = counts[counts > 0]
    return int(np.clip(np.median(present), 1, MOST_NEIGHBOURS)) if len(present) else 1


def vote(
    train: NDArray[np.float32],
    labels: Labels,
    num_classes: int,
    queries: NDArray[np.float32],
    most: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the nearest training pictures say of others.

    Exact: every query is compared with every training picture, as many at once as fit into
    128 MB. Of equally near pictures it is not defined which count.

    Args:
        train: (N, D) features, N ≥ 1.
        labels: (N,) their classes, or (N, C) of 0 and 1.
        num_classes: C.
        queries: (M, D) features.
        most: neighbours that vote; all N if that is fewer.

    Returns:
        (M, C) shares of the weighted votes in [0, 1], and (M, C) those of the nearest alone; with
        one label each, a row sums to 1.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = torch.from_numpy(labels.astype(np.int64)).to(device)
    against = F.normalize(torch.from_numpy(train).to(device), dim=1)
    count = min(most, len(train))
    rows = max(_AT_ONCE // max(len(train), count * num_classes), 1)
    weighted, single = [], []
    for part in torch.split(torch.from_numpy(queries), rows):
        similarities = F.normalize(part.to(device), dim=1) @ against.T
        near, index = similarities.topk(count, dim=1)
        weighted.append(_shares(near, own[index], num_classes).cpu())
        single.append(_shares(near[:, :1], own[index[:, :1]], num_classes).cpu())
    return torch.cat(weighted).numpy(), torch.cat(single).numpy()


def _shares(near: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(m, k) similarities and (m, k) or (m, k, C) labels → (m, C) shares of the votes."""
    # The largest taken off first: nothing overflows, and nothing is a share of zero.
    votes = ((near - near[:, :1]) / _TEMPERATURE).exp()
    votes = votes / votes.sum(dim=1, keepdim=True)
    if labels.ndim == 3:
        return torch.einsum("mk,mkc->mc", votes, labels.to(votes.dtype))
    return votes.new_zeros(len(votes), num_classes).scatter_add_(1, labels, votes)
