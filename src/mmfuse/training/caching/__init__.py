"""Frozen encoders are run once: their features are kept in memory-mapped files, and training reads them.

``cache.py`` is what is called; ``keys.py`` tells cells apart, ``fingerprint.py`` says what a cache was made of,
``encode.py`` and ``fill.py`` run the encoders, one run at a time (``turns.py``), ``shards.py`` and ``whole.py`` write,
``verify.py`` finds what was damaged, ``store.py`` reads by whole batches, and ``stored.py`` stands in for the encoder
while a model is trained.
"""

from mmfuse.training.caching.cache import cache_features
from mmfuse.training.caching.verify import verify_features

__all__ = ["cache_features", "verify_features"]
