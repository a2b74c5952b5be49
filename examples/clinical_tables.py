"""Vital signs at uneven hours and a table of the patients -> what becomes of them.

    python examples/clinical_tables.py                     # patients of a known model: how near is the best answer?
    python examples/clinical_tables.py --data FOLDER       # your own
    python examples/clinical_tables.py --ask ID            # one patient, with the model that was saved

FOLDER has ``static.csv`` with one row a patient: an ``id``, numbers, categories, the ``outcome`` (two or more classes)
and, if there is one, a column ``split`` with train, validation and test; and ``series/<id>.csv``, with a first column
``hours`` and one for each channel. Empty cells, channels that are seldom measured and patients without a series are as
they are: nothing has to be filled in. A category that training never saw is no error.

Without ``--data``, patients are generated into the run folder in exactly this layout. There the outcome lies in the
series and the table together: each alone says little. And the best possible answer to every patient is known.
"""

import argparse
import sys
import time
from pathlib import Path

from clinical_tables_data import make_data
from sklearn.metrics import accuracy_score, roc_auc_score

from mmfuse import MultimodalModel, dims_of, load, save
from mmfuse.data import Table, load_batches, read_table, series_statistics, tabular_statistics
from mmfuse.encoders import FTTransformerEncoder, SeriesEncoder, TabularEncoder
from mmfuse.evaluation import predict
from mmfuse.fusion import FUSIONS
from mmfuse.missing import ModalityDropout
from mmfuse.tasks import Classification
from mmfuse.training import fit, seed_everything

READING = {"times": "hours", "gaps": "keep"}  # any unit of time does; gaps are flagged, and how old each channel is
DIM = 64
BOTH = ("series", "table")
MODELS = {  # what each sees, its fusion
    "Concat": (BOTH, "Concat"),
    "MultiplicativeInteraction": (BOTH, "MultiplicativeInteraction"),
    "CrossAttention": (BOTH, "CrossAttention"),
    "only series": (("series",), "Concat"),
    "only table": (("table",), "Concat"),
    "only table, FT-Transformer": (("table",), "Concat"),
}
QUICK = ("Concat", "only series", "only table")


def main() -> None:
    options = parse_options()
    if options.ask:
        ask(options.folder, options.data or options.folder / "data", options.ask)
        return
    if options.data is None:
        count = options.patients or (3000 if options.quick else 6000)
        print(f"Generating {count} patients in {options.folder / 'data'} ...", flush=True)
        sizes = {"train": count * 2 // 3, "validation": count // 6, "test": count - count * 2 // 3 - count // 6}
        make_data(options.folder / "data", patients=sizes)
    folder = options.data or options.folder / "data"
    tables = split_patients(read_patients(folder))
    print(", ".join(f"{len(table)} {name}" for name, table in tables.items()))

    runs, models = [], {}
    for name in QUICK if options.quick else MODELS:
        models[name], run = train_one(name, tables, epochs=options.epochs or (16 if options.quick else 20))
        print(f"{name:26} {run['accuracy']:6.1%} after {run['seconds']:.0f} s", flush=True)
        runs.append(run)
    print_table(runs + (best := known_best(folder, tables["test"])))
    if best:
        luck = 1.96 * (0.25 / len(tables["test"])) ** 0.5
        print(f"No answer can be expected to beat the best possible; on so few rows luck moves accuracy by {luck:.1%}.")

    chosen = min((run for run in runs if run["sees"] == BOTH), key=lambda run: run["validation"])["model"]
    save(models[chosen], options.folder / "best")
    print(f"\n{chosen} had the smallest loss on the validation rows; saved to {options.folder / 'best'} and asked:")
    ask(options.folder, folder, tables["test"].cell(0, "id"))


def read_patients(folder: Path) -> Table:
    """The static table, with the path of each patient's series beside it, None where there is no file."""
    static = read_table(folder / "static.csv", id="id")
    files = [f"series/{name}.csv" for name in static.column("id")]
    return static.with_column("series", [file if (folder / file).is_file() else None for file in files])


def split_patients(table: Table) -> dict[str, Table]:
    """As the column ``split`` says, or at random."""
    names = ("train", "validation", "test")
    if "split" in table.columns:
        return {name: table.where("split", name) for name in names}
    return dict(zip(names, table.split(0.7, 0.1, 0.2), strict=True))


def kinds_of(train: Table) -> dict[str, list[str]]:
    """Which columns are numbers, and which categories: numbers are those whose cells all are."""
    columns = [name for name in train.columns if name not in ("id", "series", "outcome", "split")]
    numbers = [name for name in columns if all(map(is_number, train.column(name)))]
    return {"numbers": numbers, "categories": [name for name in columns if name not in numbers]}


def is_number(cell: str | None) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def make_model(name: str, train: Table) -> MultimodalModel:
    """All statistics are those of the training patients, and are saved with the model."""
    sees, fusion = MODELS[name]
    tabular = FTTransformerEncoder if "FT" in name else TabularEncoder
    make = {
        "series": lambda: SeriesEncoder(DIM, **series_statistics(train, "series", reading=READING)),
        "table": lambda: tabular(DIM, **tabular_statistics(train, **kinds_of(train))),
    }
    encoders = {modality: make[modality]() for modality in sees}
    tasks = {"outcome": Classification(DIM, train.classes("outcome"))}
    missing = ModalityDropout(0.2) if len(sees) > 1 else None  # learns to answer from either alone, too
    return MultimodalModel(encoders, FUSIONS[fusion](dims_of(encoders), DIM), tasks, missing=missing)


def train_one(name: str, tables: dict[str, Table], epochs: int) -> tuple[MultimodalModel, dict]:
    """Train one model, and say how it does on the test rows, also without each of its modalities."""
    seed_everything(0)
    began = time.perf_counter()
    model = make_model(name, tables["train"])
    batches = {
        split: load_batches(table, model, train=split == "train", batch_size=128, cache=True)
        for split, table in tables.items()
    }
    history = fit(
        model,
        batches["train"],
        batches["validation"],
        epochs=epochs,
        learning_rate=3e-4 if "FT" in name else 3e-3,
        weight_decay=0.05,
        patience=6,
        progress=False,
    )
    positive = min(model.tasks["outcome"].classes, key=tables["train"].column("outcome").count)  # the rarer one
    sees = MODELS[name][0]
    without = {gone: score(predict(model, batches["test"], hide=[gone]), positive) for gone in sees if len(sees) > 1}
    run = {
        "model": name,
        "sees": sees,
        "validation": min(history["validation/loss"]),
        "without": without,
        "seconds": time.perf_counter() - began,
    }
    return model, run | score(predict(model, batches["test"]), positive)


def score(rows: list[dict], positive: str) -> dict[str, float]:
    """Accuracy, and the area under the ROC curve of one class."""
    rows = [row for row in rows if row["outcome"] is not None]
    labels = [row["outcome"] for row in rows]
    risk = [row[f"outcome_p({positive})"] for row in rows]
    return {
        "accuracy": accuracy_score(labels, [row["outcome_predicted"] for row in rows]),
        "auroc": roc_auc_score([label == positive for label in labels], risk),
    }


def known_best(folder: Path, test: Table) -> list[dict]:
    """The best possible answers to the same patients, where the model that generated them is known."""
    if not (folder / "best.csv").is_file():
        return []
    best = {row["id"]: row for row in read_table(folder / "best.csv").rows}
    died = [outcome == "died" for outcome in test.column("outcome")]
    runs = []
    for name, sees in {"both": BOTH, "series": ("series",), "table": ("table",)}.items():
        risk = [float(best[patient][name]) for patient in test.column("id")]
        scores = {"accuracy": accuracy_score(died, [p > 0.5 for p in risk]), "auroc": roc_auc_score(died, risk)}
        runs.append({"model": "the best possible", "sees": sees, **scores})
    return runs


def print_table(runs: list[dict]) -> None:
    print(f"\n{'model':26} {'sees':14} {'accuracy':>8} {'AUROC':>6}   accuracy and AUROC without")
    for run in sorted(runs, key=lambda run: (-len(run["sees"]), run["sees"], -run["auroc"])):
        without = "  ".join(
            f"{gone} {part['accuracy']:.1%} {part['auroc']:.3f}" for gone, part in run.get("without", {}).items()
        )
        sees = ", ".join(run["sees"])
        print(f"{run['model']:26} {sees:14} {run['accuracy']:8.1%} {run['auroc']:6.3f}   {without}".rstrip())


def ask(folder: Path, data: Path, patient: str) -> None:
    """One patient, with the saved model."""
    if not (folder / "best").is_dir():
        sys.exit(f"There is no trained model in {folder}. Run this script without --ask first, or give its --folder.")
    model = load(folder / "best")
    (answer,) = predict(model, load_batches(read_patients(data).where("id", patient), model))
    shown = ", ".join(f"{name} {answer[name] or '-'}" for name in model.encoders["table"].transform().columns)
    print(f"{patient}: {shown}, series {answer['series'] or '-'}")
    print(f"-> {answer['outcome_predicted']} ({answer['outcome_probability']:.0%} sure; right: {answer['outcome']})")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="static.csv and series/<id>.csv; else generated")
    parser.add_argument("--folder", type=Path, default=Path("runs/clinical_tables"), help="where everything is written")
    parser.add_argument("--quick", action="store_true", help="fewer patients and one fusion, under a minute")
    parser.add_argument("--patients", type=int, help="how many to generate")
    parser.add_argument("--epochs", type=int, help="passes over the training patients")
    parser.add_argument("--ask", metavar="ID", help="answer for one patient with the saved model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
