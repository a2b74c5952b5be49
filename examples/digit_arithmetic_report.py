"""What digit_arithmetic.py prints and draws in the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digit_arithmetic_pictures import Answered, draw_confusion, draw_hidden, draw_learning_curves, draw_samples

Run = Mapping[str, Any]


def print_table(runs: Sequence[Run]) -> None:
    """One line for each model: what it saw, how it did, what it cost."""
    print(f"\n{'model':22} {'sees':20} {'accuracy':>8} {'MAE':>6} {'parameters':>10} {'seconds':>7}   accuracy without")
    for run in runs:
        without = "  ".join(f"{name} {accuracy:.1%}" for name, accuracy in run.get("hidden", {}).items())
        print(
            f"{run['model']:22} {', '.join(run['modalities']):20} {run['accuracy']:8.1%} {run['mae']:6.2f} "
            f"{run['parameters']:10,} {run['seconds']:7.0f}   {without}".rstrip()
        )
    for run in runs:
        if run.get("weights"):
            shares = ", ".join(f"{name} {share:.2f}" for name, share in run["weights"].items())
            print(f"Mean weights of {run['model']}: {shares}.")


def draw_pictures(folder: Path, fused: Sequence[Run], best: Run, *, chance: float) -> None:
    """Write curves.png, confusion.png, samples.png and hidden.png."""
    fused = sorted(fused, key=lambda run: -run["accuracy"])
    draw_learning_curves(
        {
            run["model"]: {"train loss": run["train_loss"], "validation accuracy": run["validation_curve"]}
            for run in fused
        },
        folder / "curves.png",
    )
    answers = best["answers"]
    classes = sorted({row["result"] for row in answers} | {row["result_predicted"] for row in answers}, key=int)
    right, given = [row["result"] for row in answers], [row["result_predicted"] for row in answers]
    draw_confusion(right, given, classes, folder / "confusion.png")
    draw_samples([_answered(folder, row) for row in _ten(answers)], folder / "samples.png")
    hidden = {run["model"]: {"everything": run["accuracy"], **run["hidden"]} for run in fused}
    draw_hidden(hidden, folder / "hidden.png", chance=chance)


def _ten(answers: Sequence[Run]) -> list[Run]:
    """Ten rows: up to three wrong ones, since those teach most, among the first right ones."""
    wrong = [i for i, row in enumerate(answers) if row["result"] != row["result_predicted"]][:3]
    right = [i for i, row in enumerate(answers) if row["result"] == row["result_predicted"]][: 10 - len(wrong)]
    return [answers[i] for i in sorted(wrong + right)]


def _answered(folder: Path, row: Run) -> Answered:
    return Answered(
        image=folder / "data" / row["image"],
        audio=folder / "data" / row["audio"],
        text=row["text"],
        result=row["result"],
        answer=row["result_predicted"],
        spoken=row["spoken"],
        number=row["value_predicted"],
        weights={key[7:-1]: value for key, value in row.items() if key.startswith("weight(")},
    )
