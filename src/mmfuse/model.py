"""Encoders, fusion and tasks, joined: Batch -> Output."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse._checks import require_free_names, require_kind, require_known_names
from mmfuse.contracts import Batch, Features, Output


class MultimodalModel(nn.Module):
    """One model for several modalities and several tasks.

    Every modality is encoded alone, what is absent is handled by ``missing`` (if given), the fusion makes one
    ``Features`` of all, and every task reads that. A modality that the batch does not hold at all is absent in every
    sample. Then its encoder does not run; with several processes give an ``Input`` with ``present`` False instead
    (as :func:`mmfuse.data.loading.collate` does), so that every process runs the same modules.

    Args:
        encoders: ``Input -> Features`` for each modality, with the width of its features as ``dim``.
        fusion: ``{modality: Features} -> Fused``.
        tasks: ``Features -> prediction`` for each task, with its loss and its answers.
        missing: ``{modality: Features} -> {modality: Features}``, run before the fusion.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        tasks: Mapping[str, nn.Module],
        *,
        missing: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, parts in (("encoders", encoders), ("tasks", tasks)):
            example = "{'text': TextEncoder(...)}" if name == "encoders" else "{'label': Classification(...)}"
            mend = f"modules by their names. Give {name}={example}"
            require_kind("MultimodalModel", name, parts, (Mapping, nn.ModuleDict), mend)
            for part, module in parts.items():
                require_kind("MultimodalModel", f"{name}[{part!r}]", module, nn.Module, mend)
        require_kind("MultimodalModel", "fusion", fusion, nn.Module, "a module. Give Concat(dims_of(encoders), 64)")
        if missing is not None:
            require_kind("MultimodalModel", "missing", missing, nn.Module, "a module. Give ModalityDropout(0.3)")
        if not encoders or not tasks:
            raise ValueError(
                f"MultimodalModel got {len(encoders)} encoders and {len(tasks)} tasks. Expected at least one of each. "
                "Give encoders={'text': ...} and tasks={'label': ...}."
            )
        require_free_names("A modality", encoders)
        require_free_names("A task", tasks)
        _require_same_modalities(encoders, fusion)
        _require_same_width(fusion, tasks)
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.tasks = nn.ModuleDict(tasks)
        self.missing = missing

    def forward(self, batch: Batch) -> Output:
        require_known_names("Batch.inputs", batch.inputs, self.encoders, "modality")
        features = self._encode(batch)
        if self.missing is not None:
            features = self.missing(features)
        fused = self.fusion(features)
        return Output(features, fused, {name: task(fused.features) for name, task in self.tasks.items()})

    def _encode(self, batch: Batch) -> dict[str, Features]:
        encoded = {name: encode(batch.inputs[name]) for name, encode in self.encoders.items() if name in batch.inputs}
        if len(encoded) == len(self.encoders):
            return encoded
        if not encoded:
            raise ValueError(
                f"Batch.inputs is empty. Expected at least one of {sorted(self.encoders)}. Give one modality or more."
            )
        like = next(iter(encoded.values())).pooled
        return {
            name: encoded.get(name) or _absent(like.shape[0], dim, like) for name, dim in dims_of(self.encoders).items()
        }


def _require_same_modalities(encoders: Mapping[str, nn.Module], fusion: nn.Module) -> None:
    """Raise ValueError if a fusion was built for other modalities or widths (if it remembers for which)."""
    dims = getattr(fusion, "_recorded_arguments", {}).get("dims")
    if dims is not None and dict(dims) != dims_of(encoders):
        raise ValueError(
            f"{type(fusion).__name__} was built for {dict(dims)}, but the encoders give {dims_of(encoders)}. Expected "
            "the same names and widths. Build it with dims_of(encoders)."
        )


def _require_same_width(fusion: nn.Module, tasks: Mapping[str, nn.Module]) -> None:
    """Raise ValueError if a task was built for vectors of another width than the fusion makes (if both remember it)."""
    dim = getattr(fusion, "_recorded_arguments", {}).get("dim")
    for name, task in tasks.items():
        task = getattr(task, "task", task)  # the one inside EachModality
        wanted = getattr(task, "_recorded_arguments", {}).get("dim")
        if dim is not None and wanted is not None and dim != wanted:
            raise ValueError(
                f"The task {name!r} was built for vectors of {wanted}, but {type(fusion).__name__} makes {dim}. "
                f"Expected one width. Build {type(task).__name__}({dim}, ...), or the fusion with dim={wanted}."
            )


def _absent(batch: int, dim: int, like: Tensor) -> Features:
    """Features of a modality that no sample has."""
    return Features.from_pooled(like.new_zeros(batch, dim), torch.zeros(batch, dtype=torch.bool, device=like.device))


def dims_of(encoders: Mapping[str, nn.Module] | nn.ModuleDict) -> dict[str, int]:
    """The width of each modality's features, as a fusion asks for them."""
    return {name: int(encoder.dim) for name, encoder in encoders.items()}  # type: ignore[arg-type]
