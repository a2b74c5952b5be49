"""What stands in for a frozen encoder while its features are read from a cache."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._files import read_json
from mmfuse.contracts import Features, Input
from mmfuse.data.loading.reading import Fail, Values
from mmfuse.data.tables.places import first_places
from mmfuse.data.tables.table import Table
from mmfuse.encoders._inputs import token_mask
from mmfuse.training.caching.fingerprint import weights_of
from mmfuse.training.caching.keys import KeyedReader, Keys
from mmfuse.training.caching.store import FeatureStore


class CachedEncoder(nn.Module):
    """Takes the features that an encoder has made before: (batch, dim) or (batch, 1 + time, dim) -> Features.

    It has no parameters. The encoder itself is ``stands_for``; it is no part of this module, so that it is neither
    moved, nor trained, nor written into checkpoints; ``mmfuse.save`` writes it in the place of this one.

    Args:
        encoder: the frozen one.
        transform: reads the features of a table.
        weights: the hash of the encoder's state.
    """

    pretrained = False
    _like: Tensor

    def __init__(self, encoder: Any, transform: "CachedTransform", weights: str) -> None:
        super().__init__()
        self.dim = int(encoder.dim)
        self._kept = _Kept(encoder)
        self._transform = transform
        self._weights, self._versions = weights, _versions(encoder)
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # knows device and dtype

    @property
    def stands_for(self) -> Any:
        """The encoder whose features these are."""
        return self._kept.encoder

    def forward(self, input: Input) -> Features:
        tokens = self._transform.tokens
        values = input.values
        if values.dim() != 2 + tokens or values.shape[-1] != self.dim or not values.is_floating_point():
            expected = "(batch, 1 + time, " * tokens + "(batch, " * (not tokens) + f"dim={self.dim})"
            raise ValueError(
                f"A cached encoder got {values.dtype} of shape {tuple(values.shape)}. Expected stored features "
                f"{expected}. Load the batches for this very model, the one that cache_features gave: "
                "load_batches(table, cached), without transforms for this modality."
            )
        values = values.to(self._like.dtype)
        if not tokens:
            return Features.from_pooled(values, input.present)
        return Features(values[:, 1:], token_mask(input)[:, 1:], values[:, 0])

    def transform(self, train: bool = False) -> "CachedTransform":  # noqa: ARG002  features do not change
        """From the rows of a table to their stored features.

        Raises:
            ValueError: the encoder has other weights by now.
        """
        if (versions := _versions(self.stands_for)) != self._versions:
            if weights_of(self.stands_for) != self._weights:
                raise ValueError(
                    "The encoder whose features are cached has other weights by now. Expected those that it had when "
                    "cache_features was called. Keep it frozen, or call cache_features again with another folder."
                )
            self._versions = versions
        return self._transform


class CachedTransform:
    """Reads the features of a table, from the cache of one modality.

    Args:
        transform: what the cells go through before the encoder.
        folder: of the modality.
        dim: width of the features.
        dtype: of the stored numbers.
        tokens: read tokens, not pooled vectors alone.
    """

    random = False

    def __init__(self, transform: Any, folder: Path, dim: int, dtype: torch.dtype, *, tokens: bool) -> None:
        self.of, self.folder, self.dim, self.dtype, self.tokens = transform, folder, dim, dtype, tokens
        self.takes_path = transform.takes_path
        self.padding = 0.0 if tokens else None
        if hasattr(transform, "columns"):
            self.columns = transform.columns

    def __call__(self, value: Any) -> Tensor:
        raise ValueError(
            f"Cached features are read by the rows of a table, not from a {type(value).__name__}. Expected "
            "load_batches(table, cached). Give other data to the model that was given to cache_features."
        )

    def blank(self) -> Float[Tensor, "*time dim"]:
        """What stands in for absent features."""
        return torch.zeros((2, self.dim) if self.tokens else self.dim, dtype=self.dtype)

    def mix(self, first: Input, second: Input, share: Tensor) -> Input:  # noqa: ARG002
        """Refuse: what would be mixed is what goes into an encoder."""
        raise ValueError(
            "Mixup cannot mix cached features: it mixes what goes into an encoder, and the encoder is not run. "
            "Expected batches without mix. Leave it out, or train with the encoder itself."
        )

    def reader(self, table: Table, name: str) -> "CachedReader":
        """What reads the features of a table's rows."""
        return CachedReader(table, name, self)


class CachedReader(KeyedReader):
    """Reads the features of whole batches in one gather.

    Raises:
        ValueError: the features of a cell are not in the cache.
    """

    def __init__(self, table: Table, name: str, transform: CachedTransform) -> None:
        super().__init__(table, name, transform.of, cache=False, seed=0)
        self._tokens = transform.tokens
        store = FeatureStore(transform.folder, transform.dim, transform.dtype)
        self._reasons: dict[int, str] = {}  # of the rows that could not be read when they were cached
        places = self._find(store, transform.folder, Keys(transform.folder.parent))
        self._features = store.of_rows(places)
        lost = store.lost[places.clamp_min(0)].where(places >= 0, 0) if len(store) else torch.zeros(0)
        self._lost = lost if bool(lost.any()) else None

    def read(self, rows: Tensor, epoch: int, fail: Fail, mark: Any) -> Values:  # noqa: ARG002  nothing is random
        """The features of some rows as an Input, and how many steps of each cell were cut off."""
        mark[0] = int(rows[0])
        if self._reasons:
            for place, row in enumerate(rows.tolist()):
                if row in self._reasons:
                    fail(place, ValueError(self._reasons[row]))
        lost = None if self._lost is None else self._lost[rows]
        given = self._features.gather(rows, tokens=self._tokens)
        return Values(given, None if lost is None or not bool(lost.any()) else lost.tolist())

    def lengths(self) -> Any:
        """Tokens of every row, and one for the pooled vector."""
        return self._features.lengths().numpy()

    def _find(self, store: FeatureStore, folder: Path, keys: Keys) -> Tensor:
        """Where the features of each row are; -1 where the cell is empty or could not be read."""
        found = self.keys(torch.arange(len(self._table)), keys)
        whole = [row for row, key in enumerate(found) if isinstance(key, bytes)]
        places = torch.full((len(found),), -1)
        places[whole] = store.find([key for key in found if isinstance(key, bytes)])
        unreadable = read_unreadable(folder)
        missing = []
        for row in (places < 0).nonzero().flatten().tolist():
            if (key := found[row]) is None:
                continue
            if isinstance(key, bytes) and key.hex() not in unreadable:
                missing.append(row)
            else:
                self._reasons[row] = unreadable[key.hex()] if isinstance(key, bytes) else str(key)
        if missing:
            raise ValueError(
                f"The features of {len(missing)} cells of {self._name!r} are not in {folder}: "
                f"{first_places(self._table, missing)}. Expected those of every row. Encode them first: "
                "cache_features(model, table, folder); or use the model that was given to it, with its encoders."
            )
        return places


def read_unreadable(folder: Path) -> dict[str, str]:
    """Why cells could not be read, by their keys in hexadecimal digits."""
    reasons: dict[str, str] = {}
    for path in sorted(folder.glob("unreadable-*.json")):
        reasons |= read_json(path)
    return reasons


class _Kept:
    """Holds an encoder that is no part of the module, and that a copy of the module shares."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return self


def _versions(encoder: nn.Module) -> list[tuple[int, int]]:
    """Numbers that are others once weights are written to in place, or stand in another place."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in tensors]
