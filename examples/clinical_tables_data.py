"""The patients of clinical_tables.py: generated, so that the best possible answer is known.

Patient i has a course :math:`c = \\pm 1` (pulse and pressure drift apart, or together), and a ward, whose kind
:math:`g = \\pm 1` says which of the two courses is the bad one there:

    P(died) = sigmoid(-0.4 + 0.9 z + 2.8 c g),     z = (age - 66) / 12 ~ N(0, 1)

The course is seen only through the vital signs, with an unknown level u of each patient, at uneven hours t:

    x_k(t) = base_k + u_k + c drift_k t / 24 + noise_k e,      u_k ~ N(0, level_k^2),  e ~ N(0, 1)

Saturation and temperature do not drift, sex and weight say nothing. Cells, steps and whole modalities are missing at
random. The ward "burns" was opened after the training patients had left; there the kind is a coin toss. From this the
posterior of c (a linear Gaussian model), of g (a table) and of the outcome (a sum over both, and an integral over the
age where it is missing) follow exactly; nobody who sees the same cells can do better than :func:`best_answers`.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

CHANNELS = ("heart_rate", "pressure", "saturation", "temperature")
BASE = np.array([86.0, 118.0, 96.0, 37.0])
LEVEL = np.array([9.0, 12.0, 1.2, 0.4])
DRIFT = np.array([7.0, -8.0, 0.0, 0.0])  # a day
NOISE = np.array([5.0, 7.0, 1.0, 0.3])
MEASURED = np.array([0.9, 0.6, 0.5, 0.3])  # how often a channel has a value at a step
STEPS, HOURS_BETWEEN = 64, 1.3

WARDS = ("medicine", "oncology", "surgery", "cardiology", "burns")
KIND = np.array([1, 1, -1, -1, 0])  # 0: a coin toss
BEFORE = np.array([0.40, 0.22, 0.20, 0.18, 0.0])  # shares of the wards, in training and validation
AFTER = np.array([0.36, 0.20, 0.18, 0.16, 0.10])  # and in test
BASE_RISK, AGE_RISK, COURSE_RISK = -0.4, 0.9, 2.8
MISSING = {"age": 0.15, "sex": 0.05, "weight": 0.2, "ward": 0.08}
NO_SERIES, NO_TABLE = 0.06, 0.03
COLUMNS = ("id", "age", "weight", "sex", "ward", "outcome", "split")


class Patients(NamedTuple):
    """What is known of some patients; NaN or -1 where it is not."""

    hours: np.ndarray  # (patient, step), NaN beyond the last
    signs: np.ndarray  # (patient, step, channel)
    age: np.ndarray
    weight: np.ndarray
    sex: np.ndarray  # 0, 1 or -1
    ward: np.ndarray  # number of a ward, or -1
    died: np.ndarray


def draw(count: int, wards: np.ndarray, random: np.random.Generator) -> Patients:
    """Patients of the model above."""
    course = random.choice([-1, 1], count)
    ward = random.choice(len(WARDS), count, p=wards)
    kind = np.where(KIND[ward] == 0, random.choice([-1, 1], count), KIND[ward])
    z = random.standard_normal(count)
    died = random.random(count) < _sigmoid(BASE_RISK + AGE_RISK * z + COURSE_RISK * course * kind)
    hours, signs = _draw_series(course, random)
    weight = np.round(random.normal(78, 15, count), 1)
    sex = random.integers(0, 2, count)

    no_table = random.random(count) < NO_TABLE
    gone = {name: no_table | (random.random(count) < share) for name, share in MISSING.items()}
    age = np.where(gone["age"], np.nan, np.round(66 + 12 * z, 2))
    weight = np.where(gone["weight"], np.nan, weight)
    return Patients(
        hours, signs, age, weight, np.where(gone["sex"], -1, sex), np.where(gone["ward"], -1, ward), died.astype(int)
    )


def best_answers(patients: Patients, wards: np.ndarray) -> dict[str, np.ndarray]:
    """P(died) of each patient, given the series and the table, the series alone, the table alone."""
    rises = _sigmoid(_evidence(patients.hours, patients.signs))
    known = np.append((KIND + 1) / 2, (wards * (KIND + 1) / 2).sum())  # P(g = 1) in each ward, and where none is known
    kind = known[patients.ward]
    z = (patients.age - 66) / 12
    half, nothing = np.full(len(z), 0.5), np.full(len(z), np.nan)
    return {
        "both": _risk(rises, kind, z),
        "series": _risk(rises, np.full(len(z), known[-1]), nothing),
        "table": _risk(half, kind, z),
    }


def make_data(folder: Path, *, patients: dict[str, int], seed: int = 0) -> None:
    """Write static.csv and series/<id>.csv, as a user's own data would lie, and best.csv with the best answers."""
    random = np.random.default_rng(seed)
    (folder / "series").mkdir(parents=True, exist_ok=True)
    rows, best, first = [], [], 1
    for split, count in patients.items():
        wards = AFTER if split == "test" else BEFORE
        some = draw(count, wards, random)
        rows += [_row(some, i, f"p{first + i:05}", split) for i in range(count)]
        answers = best_answers(some, wards)
        best += [[f"p{first + i:05}", *(f"{answers[name][i]:.6f}" for name in answers)] for i in range(count)]
        for i in range(count):
            _write_series(folder / "series" / f"p{first + i:05}.csv", some.hours[i], some.signs[i])
        first += count
    _write(folder / "static.csv", COLUMNS, rows)
    _write(folder / "best.csv", ("id", "both", "series", "table"), best)


def _draw_series(course: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Steps at uneven hours, a stay of 12 to 60 hours, for half of them with six hours without the monitor."""
    count = len(course)
    hours = np.round(np.cumsum(random.exponential(HOURS_BETWEEN, (count, STEPS)) + 0.05, axis=1), 2)
    silent = np.where(random.random(count) < 0.5, random.uniform(0, 40, count), np.inf)[:, None]
    kept = (hours < random.uniform(12, 60, (count, 1))) & ~((hours > silent) & (hours < silent + 6))
    seen = kept[..., None] & (random.random((count, STEPS, 4)) < MEASURED)
    seen &= (random.random((count, 1, 1)) >= NO_SERIES) & (seen.any(axis=2).sum(axis=1) >= 2)[:, None, None]
    level = LEVEL * random.standard_normal((count, 1, 4))
    drift = course[:, None, None] * DRIFT * hours[..., None] / 24
    signs = np.round(BASE + level + drift + NOISE * random.standard_normal((count, STEPS, 4)), 1)
    seen_at_all = seen.any(axis=2)
    return np.where(seen_at_all, hours, np.nan), np.where(seen, signs, np.nan)


def _evidence(hours: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """log P(series | c = 1) - log P(series | c = -1) = 2 d' S^-1 (x - base), d the drift, S = noise^2 I + level^2 J."""
    seen = ~np.isnan(signs)
    drift = np.where(seen, DRIFT * np.nan_to_num(hours)[..., None] / 24, 0.0)
    apart = np.where(seen, signs - BASE, 0.0)
    shared = LEVEL**2 / (NOISE**2 + seen.sum(axis=1) * LEVEL**2)  # Sherman and Morrison (1950)
    weighted = (drift * apart).sum(axis=1) - shared * drift.sum(axis=1) * apart.sum(axis=1)
    return (2 * weighted / NOISE**2).sum(axis=1)


def _risk(rises: np.ndarray, kind: np.ndarray, z: np.ndarray) -> np.ndarray:
    """P(died), from P(c = 1), P(g = 1) and z."""
    worse = rises * kind + (1 - rises) * (1 - kind)  # P(c g = 1)
    return worse * _at_age(z, COURSE_RISK) + (1 - worse) * _at_age(z, -COURSE_RISK)


def _at_age(z: np.ndarray, shift: float) -> np.ndarray:
    """The mean over all ages (by Gauss and Hermite) where it is not known."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    anyone = (weights * _sigmoid(BASE_RISK + AGE_RISK * points + shift)).sum() / weights.sum()
    return np.where(np.isnan(z), anyone, _sigmoid(BASE_RISK + AGE_RISK * np.nan_to_num(z) + shift))


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))


def _row(patients: Patients, i: int, name: str, split: str) -> list[str]:
    sex, ward = patients.sex[i], patients.ward[i]
    return [
        name,
        _cell(patients.age[i]),
        _cell(patients.weight[i]),
        "" if sex < 0 else ("female", "male")[sex],
        "" if ward < 0 else WARDS[ward],
        ("survived", "died")[patients.died[i]],
        split,
    ]


def _write_series(path: Path, hours: np.ndarray, signs: np.ndarray) -> None:
    real = ~np.isnan(hours)
    if real.any():
        rows = zip(hours[real], signs[real], strict=True)
        _write(path, ("hours", *CHANNELS), [[_cell(hour), *map(_cell, channels)] for hour, channels in rows])


def _cell(number: float) -> str:
    return "" if np.isnan(number) else f"{number:g}"


def _write(path: Path, header: tuple[str, ...], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
