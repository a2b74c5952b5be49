"""The study of tune.py: an Optuna study in one SQLite file that a killed search goes on with, as if nothing had been.

Optuna's samplers keep their random state in memory only. So each trial gets a sampler of its own, seeded by the seed of
the study and by how many trials are finished: what it proposes depends on nothing but these and the trials themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import optuna
except ImportError as error:
    raise ImportError("optuna, which chooses the trials, is missing. Run pip install 'mmfuse[tuning]'.") from error

from mmfuse.training import NonFiniteError

NAME, METRIC = "digit arithmetic", "validation/result/accuracy"
STARTING = 5  # trials at random, before any is pruned and before the sampler learns from them
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
Log = Callable[[int, Mapping[str, float]], None]


def open_study(folder: Path, settings: Mapping[str, Any]) -> optuna.Study:
    """The study in ``folder/study.db``, or a new one. SQLite and JSON inside: nothing is unpickled.

    Raises:
        ValueError: the study there was begun with other settings: its trials cannot be compared with new ones.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name=NAME,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTING),
        load_if_exists=True,
    )
    begun = study.user_attrs.get("settings", settings)
    if begun != settings:
        other = ", ".join(
            f"{key}={settings[key]} for {begun.get(key)}" for key in settings if settings[key] != begun.get(key)
        )
        raise ValueError(
            f"The study in {folder} was begun with other settings: this call has {other}. Expected the same, since "
            "its trials are compared with each other. Give them again, or another --folder."
        )
    study.set_user_attr("settings", settings)
    return study


def trials_of(study: optuna.Study, fusions: Sequence[str], number: int, seed: int) -> Iterator[optuna.Trial]:
    """Trials to be run until ``number`` are finished: first the one that was running when the search was killed.

    The first trials try every fusion once: chance alone would forget some, and the sampler would never return to them.
    """
    for fusion in fusions:
        study.enqueue_trial({"fusion": fusion}, skip_if_exists=True)
    while (done := len(study.get_trials(deepcopy=False, states=FINISHED))) < number:
        study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + done, n_startup_trials=STARTING)
        running = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        yield optuna.trial.Trial(study, running[0]._trial_id) if running else study.ask()


def run_trial(study: optuna.Study, trial: optuna.Trial, train: Callable[[optuna.Trial, Log], float]) -> str:
    """Train once, tell the study, and say how it went in a few words.

    What ends the program (a signal, an error) leaves the trial running, and the next start goes on with it.
    """
    try:
        score = train(trial, pruning_log(study, trial))
    except optuna.TrialPruned as pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return str(pruned)
    except NonFiniteError:  # too high a rate, say: as bad as can be, and no reason to end the search
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return "pruned: a loss or gradient was not finite"
    study.tell(trial, score)
    return f"{score:.1%}"


def pruning_log(study: optuna.Study, trial: optuna.Trial) -> Log:
    """A log for ``fit`` that tells the study of every validation, and ends the run if it is worse than most."""
    known = set(study.trials[trial.number].intermediate_values)  # before it was killed

    def log(step: int, values: Mapping[str, float]) -> None:
        if METRIC not in values:
            return
        if step not in known:
            trial.report(values[METRIC], step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned at {values[METRIC]:.1%} after {step} steps: worse than most")

    return log


def saved_share(study: optuna.Study, epochs: int) -> float:
    """The share of all epochs that pruning has saved."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    return 1 - sum(len(trial.intermediate_values) for trial in trials) / (epochs * len(trials))
