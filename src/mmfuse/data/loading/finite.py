"""Finds NaN and infinity in the inputs of a batch, at the price of one sum where all is well."""

import math

from mmfuse.contracts import Input


def nonfinite_rows(given: Input) -> dict[int, str]:
    """The message for each row of a modality that holds a NaN or an infinity where something is real.

    A sum is finite only if every value is; only where it is not (a sum may overflow, too) are the values looked at.
    """
    values = given.values
    if not values.is_floating_point() or math.isfinite(values.sum().item()):
        return {}
    bad = ~given.zeroed().values.flatten(1).isfinite()
    counts = bad.sum(dim=1)
    total = bad.shape[1] if given.mask is None else bad.shape[1] // given.mask.shape[1] * given.mask.sum(dim=1)
    totals = total.tolist() if not isinstance(total, int) else [total] * len(counts)
    return {
        row: f"{count} of {totals[row]} values are NaN or infinite. Expected finite values. Write the file again from "
        "its source, or pass check_finite=False if the encoder knows what to do with them."
        for row, count in enumerate(counts.tolist())
        if count
    }
