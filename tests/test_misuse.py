"""Whatever a public function is given, its error is one of ours: what was wrong, what was expected, how to mend it."""

import inspect
import random
import warnings

import numpy as np
import pytest
import torch
from test_training import Vector, cut, model_of_vectors, random_batch

from mmfuse import Batch, MultimodalModel, dims_of, load, save
from mmfuse.data import load_batches, read_table
from mmfuse.encoders import FeatureEncoder
from mmfuse.evaluation import evaluate, predict
from mmfuse.fusion import Concat
from mmfuse.losses import Sum
from mmfuse.tasks import Classification
from mmfuse.training import History, fit, make_optimizer, parameter_groups, plot_history, train_epoch

pytestmark = pytest.mark.plain

BATCHES = cut(random_batch(8, known=1.0), [4, 4])
TABLE = [{"left": [1.0] * 5, "sort": "a"}, {"left": [2.0] * 5, "sort": "b"}]
HOSTILE = [None, True, False, 0, -1, 3, 2**70, 1.5, -0.5, float("nan"), float("inf"), 1j, "", "x", "3", b"x"]
HOSTILE += [[], [1], ["x"], [None], (), {}, {"a": 1}, {1: 2}, {"left": None}, {"left": -1}, {"sort": "x"}, {"x"}]
HOSTILE += [object(), object, print, range(3), Ellipsis, torch.ones(2), torch.tensor(float("nan"))]
HOSTILE += [np.ones(2), np.float64("nan"), np.int64(-3), np.array("x"), History(), History([{"epoch": 1}])]
HOSTILE += [BATCHES, BATCHES[0], Batch({}, {}), [BATCHES[0], None], torch.nn.Linear(2, 2)]
MINE = (TypeError, ValueError, KeyError, OSError, RuntimeError)  # with a text of ours


def tiny_model():
    encoders = {"left": FeatureEncoder(5)}
    return MultimodalModel(encoders, Concat(dims_of(encoders), 8), {"sort": Classification(8, ["a", "b"])})


def an_epoch(model, **given):
    given = {"optimizer": make_optimizer(parameter_groups(model_of_vectors())), "weigh": Sum()} | given
    return list(train_epoch(model, **given))


def calls(folder):
    """For each function how it is called well, and the arguments that are taken from it."""
    save(tiny_model(), folder / "saved")
    modules = {"encoders": {"left": Vector(5)}, "fusion": Concat({"left": 8}, 8)}
    run = {"model": model_of_vectors(), "train": BATCHES, "validation": BATCHES, "epochs": 1, "progress": False}
    epoch = {"model": model_of_vectors(), "batches": BATCHES}
    reading = {"table": read_table(TABLE), "model": tiny_model()}
    left_out = {"compile", "deterministic", "folder", "table", "bucket_by"}  # slow, or tested elsewhere
    names = {
        function: [name for name in inspect.signature(function).parameters if name not in left_out]
        for function in (fit, train_epoch, evaluate, predict, MultimodalModel, load, load_batches, plot_history)
    }
    return [
        (fit, run, names[fit]),
        (an_epoch, epoch, names[train_epoch]),
        (evaluate, epoch, names[evaluate]),
        (predict, epoch, names[predict]),
        (MultimodalModel, modules | {"tasks": {"sort": Classification(8, 3)}}, names[MultimodalModel]),
        (save, {"model": tiny_model(), "folder": folder / "again"}, ["model"]),
        (load, {"folder": folder / "saved"}, ["folder", *names[load]]),
        (load_batches, reading, names[load_batches]),
        (plot_history, {"history": History([{"epoch": 1, "train/loss": 1.0}])}, names[plot_history]),
    ]


def problem(function, given):
    """The error that a call ends with, if it is none of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**given)
    except MINE as error:
        return None if "xpected" in str(error) else error
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("number", range(9))
def test_no_error_from_the_inside_comes_out(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    function, good, names = calls(tmp_path)[number]
    draw = random.Random(number)
    assert problem(function, good) is None

    for _ in range(40):
        spoiled = {name: draw.choice(HOSTILE) for name in draw.sample(names, min(len(names), draw.choice([1, 1, 2])))}
        if spoiled.get("epochs") != 2**70 and spoiled.get("workers") != 3:  # endless, or slow, but right
            found = problem(function, good | spoiled)
            assert found is None, f"{function.__name__} with {spoiled}: {found!r}"
