"""A run that goes on in another way than it came says so."""

import json
import re
import warnings

import pytest
from test_training import cut, model_of_vectors, random_batch
from tiny_data import make_model, write_rows

from mmfuse.data import load_batches, read_table
from mmfuse.losses import UncertaintyWeighting
from mmfuse.training import course, fit

BATCHES = cut(random_batch(24, known=1.0), [8, 8, 8])
BEGUN = {"epochs": 1, "progress": False, "patience": 3, "validation": BATCHES[:1]}


def rule(*_):
    """Edits nothing."""


def go_on(folder, train=BATCHES, model=None, **other):
    return fit(model or model_of_vectors(), train, folder=folder, resume=True, **BEGUN | other)


@pytest.mark.plain  # the shape checks stand between fit and who calls it
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"epochs": 2}, "epochs=2 instead of 1"),
        ({"accumulate": 3, "clip": None}, "accumulate=3 instead of 1, clip=None instead of 1.0"),
        ({"warmup": 0.0, "precision": "bf16"}, "warmup=0.0 instead of 0.1, precision='bf16' instead of 'auto'"),
        ({"balance": [rule]}, "balance=[rule] instead of []"),
        ({"unfreeze": {"left": 1}}, "unfreeze={'left': 1} instead of None"),
        ({"train": BATCHES[:2]}, "batches of train=2 instead of 3"),
        ({"validation": None, "patience": None}, "patience=None instead of 3, batches of validation=0 instead of 1"),
    ],
)
def test_both_values_of_what_is_another_are_told(tmp_path, other, told):
    go_on(tmp_path)

    with pytest.warns(UserWarning, match=re.escape(f"with other arguments than before: {told}. So it is")) as caught:
        go_on(tmp_path, **other)

    assert len(caught) == 1 and caught[0].filename == __file__


def test_of_a_module_its_class_is_told():
    weigh = UncertaintyWeighting(["sort", "size"])
    arguments = {**dict.fromkeys(course.DECIDE), "train": BATCHES, "validation": None}

    with pytest.warns(UserWarning, match=r"weigh=UncertaintyWeighting instead of None"):
        course.tell_other_course(
            "run", course.course_of(arguments), course.course_of(arguments | {"weigh": weigh}), stacklevel=1
        )


def test_another_size_of_the_batches_is_told_as_that_of_all_processes(tmp_path, monkeypatch):
    table, model = read_table(write_rows(tmp_path)), make_model()
    batches = {size: load_batches(table, model, train=True, batch_size=size) for size in (3, 6)}
    given = {"folder": tmp_path / "run", "resume": True, "epochs": 1, "progress": False}
    fit(model, batches[6], **given)

    with pytest.warns(UserWarning, match="batch_size of train=3 instead of 6"):
        fit(make_model(), batches[3], **given)
    arguments = dict.fromkeys(course.DECIDE) | {"train": batches[6], "validation": None}
    alone = course.course_of(arguments)
    monkeypatch.setattr(course, "world", lambda: 2)
    assert course.course_of(arguments | {"train": batches[3]}) == alone


def test_what_changes_nothing_and_a_checkpoint_that_does_not_say_are_not_told(tmp_path):
    go_on(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go_on(tmp_path, save_every=1, keep=3, log_every=1, strategy="auto", device="cpu", on_nonfinite="skip")

        course.tell_other_course("run", {}, {"epochs": 3}, stacklevel=1)

    (state,) = tmp_path.glob("checkpoints/*/state.json")
    assert json.loads(state.read_text())["progress"]["course"]["epochs"] == 1
