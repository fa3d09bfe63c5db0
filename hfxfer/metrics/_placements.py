"""ROC-AUC as a mean over rows, so that it can be resampled like one (DeLong et al. 1988). numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def ranked_columns(num_classes: int, multi_label: bool) -> range:
    """The columns whose mean is ROC-AUC. Two exclusive classes mirror each other, so the second stands for both."""
    return range(1, 2) if num_classes == 2 and not multi_label else range(num_classes)


def column_placements(positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """(area, influence) of one column; both kinds of row must occur. positive: (N,) bool; scores: (N,).

    influence: (N,) with mean 0. To first order the area of a resample is area + mean influence of its rows.
    """
    above, below = np.sort(scores[positive]), np.sort(scores[~positive])
    beaten = _share_below(below, scores[positive])
    beating = 1 - _share_below(above, scores[~positive])
    area = float(beaten.mean())
    influence = np.empty(len(scores))
    influence[positive] = (beaten - area) * (len(scores) / len(above))
    influence[~positive] = (beating - area) * (len(scores) / len(below))
    return area, influence


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of `ordered` below each value, ties by half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def mean_placements(probabilities, positive: Callable[[int], np.ndarray], columns: range) -> tuple:
    """(area, influence (N,), smaller group of each counted column), the mean over the columns where both kinds occur.

    Reads a block of columns at a time. positive: column -> (N,) bool. area is None where no column counts.
    """
    areas, influence, smaller = [], np.zeros(probabilities.num_rows), []
    for first, block in probabilities.blocks_of_columns():
        for offset in range(block.shape[1]):
            if first + offset not in columns:
                continue
            is_positive = positive(first + offset)
            num_positive = int(is_positive.sum())
            if 0 < num_positive < len(is_positive):
                area, of_column = column_placements(is_positive, block[:, offset])
                areas.append(area)
                influence += of_column
                smaller.append(min(num_positive, len(is_positive) - num_positive))
    if not areas:
        return None, influence, np.zeros(0)
    return float(np.mean(areas)), influence / len(areas), np.array(smaller)
