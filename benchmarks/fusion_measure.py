"""One case measured: equal to plain, then time, peak memory and kernels of both, and the matrix products alone."""

from collections.abc import Mapping

from common import Row, in_turn, kernels, peak_mib, replay
from fusion_cases import Case

TOLERANCE = 1e-9


def measure(name: str, case: Case, *, rounds: int, targets: Mapping[str, float]) -> dict[str, Row]:
    """Rows by kind: equal, time, products, peak, kernels. Raise AssertionError where plain computes something else."""
    apart = case.difference()
    if not apart <= TOLERANCE:
        raise AssertionError(f"{name} differs from its plain counterpart by {apart:.1e} (relative, in float64)")
    ours, plain, reset = case.steps()
    products = replay(ours)
    (ms, plain_ms, products_ms), (ratio, over) = in_turn(
        [ours, plain, products], rounds=rounds, seconds=(rounds - 3.0, 60.0)
    )
    peaks = [peak_mib(step, reset) for step in (ours, plain)]
    counts = [kernels(step) for step in (ours, plain)]
    return {
        "equal": Row(f"{name}: difference from plain", apart, TOLERANCE, apart / TOLERANCE, 1, ""),
        "time": Row(f"{name}: time", ms, plain_ms, ratio, targets.get("time")),
        "products": Row(f"{name}: time over its matrix products", ms, products_ms, over, targets.get("products")),
        "peak": Row(f"{name}: peak memory", *peaks, peaks[0] / peaks[1], targets.get("peak"), "MiB"),
        "kernels": Row(f"{name}: kernels", *counts, counts[0] / counts[1], targets.get("kernels"), ""),
    }
