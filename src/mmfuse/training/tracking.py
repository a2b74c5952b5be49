"""Logs for tools that draw curves: TensorBoard, and Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuse._checks import require_choice


class TensorBoard:
    """A log for TensorBoard: ``fit(..., log=TensorBoard("run/tensorboard"))``, then ``tensorboard --logdir run``.

    Args:
        folder: where its event files go; a run that goes on writes into the same.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        self._purge: int | None = None
        _summary_writer()  # what is missing is said before the run begins

    def __call__(self, step: int, values: Mapping[str, float | int]) -> None:
        if self._writer is None:
            self._writer = _summary_writer()(str(self.folder), purge_step=self._purge)
            self._purge = None  # once: what comes in a later file is new
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def keep_until(self, step: int) -> None:
        """Let TensorBoard hide what was logged after a step, for a run that goes on from there."""
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        """End the event file. A later call begins another one beside it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases:
    """A log for Weights & Biases: ``fit(..., log=WeightsAndBiases("digits"))``.

    Args:
        project: name of the project.
        folder: where its files go, as ``folder/wandb``.
        mode: "offline" writes files only, for ``wandb sync`` later; "online" sends them as they come.
        name: of the run; wandb makes one if None.
        id: of the run, in letters and digits: give one, so that a run that is started again goes on in its curves.
        config: settings that wandb shows beside them.
    """

    def __init__(
        self,
        project: str,
        *,
        folder: str | Path = ".",
        mode: str = "offline",
        name: str | None = None,
        id: str | None = None,  # wandb's own word for it
        config: Mapping[str, Any] | None = None,
    ) -> None:
        require_choice("WeightsAndBiases", "mode", mode, ("offline", "online"))
        self._wandb = _wandb()
        self.folder = Path(folder)
        self._settings = {"project": project, "dir": str(folder), "mode": mode, "name": name, "id": id}
        self._config = None if config is None else dict(config)
        self._run: Any = None

    def __call__(self, step: int, values: Mapping[str, float | int]) -> None:
        if self._run is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            resume = None if self._settings["id"] is None else "allow"
            self._run = self._wandb.init(**self._settings, config=self._config, resume=resume)
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run, when all is written or sent."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("tensorboard") from error
    return SummaryWriter


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise _missing("wandb") from error
    return wandb


def _missing(package: str) -> ImportError:
    return ImportError(f"{package} is missing. Expected it for this log. Run pip install 'mmfuse[tracking]'.")
