"""The main example: a written digit, a spoken one, and a sentence that says what to do with them.

    python examples/digit_arithmetic.py                       # train, compare, draw; four minutes on two cores
    python examples/digit_arithmetic.py --ask IMAGE WAV "What is the sum of the two numbers?"     ('-' where absent)

No modality means anything alone. A model of an image, a sound and a text encoder answers twice: with a class and with a
number. Compared are some fusions of all three, every single modality, every pair, and chance, each trained alike. The
epoch is chosen by the validation rows; what is printed comes from the test rows, whose handwriting, voice settings and
sentences no training row has.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from digit_arithmetic_data import make_data
from digit_arithmetic_report import draw_pictures, print_table

from mmfuse import MultimodalModel, dims_of, load, save
from mmfuse.data import Table, load_batches, read_table
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SpectrogramEncoder, SpeechEncoder, TextEncoder, ViTEncoder
from mmfuse.evaluation import evaluate, predict
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification, Regression
from mmfuse.training import fit, seed_everything

MODALITIES = ("image", "audio", "text")
SINGLES = [(name,) for name in MODALITIES]
PAIRS = [("image", "audio"), ("image", "text"), ("audio", "text")]
COMPARED = ("Concat", "CrossAttention", "WeightedAverage")  # --fusions takes others
AUDIO = {
    "spectrogram": lambda: SpectrogramEncoder.preset("tiny", rate_hz=8000, num_mels=40, hop_ms=20.0),
    "wav2vec": lambda: SpeechEncoder.preset("tiny"),
}
FULL = {"rows": {"train": 6000, "validation": 500, "test": 1000}, "epochs": 9, "learning_rate": 1e-3}
QUICK = {"rows": {"train": 3000, "validation": 200, "test": 400}, "epochs": 4, "learning_rate": 2e-3}


def main() -> None:
    options = parse_options()
    if options.ask:
        ask(options.folder, *options.ask)
        return
    started, size = time.perf_counter(), QUICK if options.quick else FULL
    wanted = [(name, MODALITIES) for name in options.fusions or (COMPARED[:1] if options.quick else COMPARED)]
    wanted += [("Concat", names) for names in SINGLES + ([] if options.quick else PAIRS)]
    wanted.sort(key=lambda job: (len(job[1]), job[0] == "CrossAttention"), reverse=True)  # the longest first
    runs = []
    keep_freed_memory()
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), use_one_thread, [options.jobs]) as pool:
        print(f"Writing images, voices and tables to {options.folder / 'data'} ...", flush=True)
        pool.submit(make_data, options.folder / "data", rows=size["rows"]).result()
        jobs = [(options.folder, fusion, names, options.audio, size) for fusion, names in wanted]
        for run in pool.map(train_one, *zip(*jobs, strict=True)):
            print(
                f"{run['model']:35} {run['accuracy']:6.1%} right after {run['seconds']:.0f} s of training", flush=True
            )
            runs.append(run)

        table = [*sorted(runs, key=lambda run: (-len(run["modalities"]), -run["accuracy"])), chance(options.folder)]
        fused = [run for run in runs if len(run["modalities"]) == len(MODALITIES)]
        best = max(fused, key=lambda run: run["validation_accuracy"])  # the test rows have no say in it
        print_table(table)
        shutil.copytree(options.folder / "models" / best["model"], options.folder / "best", dirs_exist_ok=True)
        pictures = pool.submit(draw_pictures, options.folder, fused, best, chance=table[-1]["accuracy"])
        if options.json:
            keep = ("model", "modalities", "accuracy", "mae", "parameters", "seconds", "hidden", "weights")
            rows = [{key: run[key] for key in keep if key in run} for run in table]
            options.json.write_text(json.dumps({"rows": rows, "best": best["model"]}, indent=1) + "\n")
        print(f"\nBest by validation: {best['model']}, saved to {options.folder / 'best'}. Asked in a new process:")
        ask_in_a_new_process(options.folder)
        pictures.result()
    print(f"\n{time.perf_counter() - started:.0f} s in all. Pictures: {options.folder}/*.png")


def train_one(folder: Path, fusion: str, modalities: tuple[str, ...], audio: str, size: dict) -> dict:
    """Train one model on some of the modalities, save it, and say how it does on the test rows."""
    seed_everything(0)
    tables = {split: read_table(folder / "data" / f"{split}.csv") for split in ("train", "validation", "test")}
    model = make_model(tables["train"], fusion, modalities, audio)
    as_it_is = {"image": model.encoders["image"].transform()} if "image" in modalities else {}  # no random crops
    batches = {
        split: load_batches(table, model, train=split == "train", cache=True, transforms=as_it_is)
        for split, table in tables.items()
    }
    began = time.perf_counter()
    history = fit(
        model,
        batches["train"],
        batches["validation"],
        epochs=size["epochs"],
        learning_rate=size["learning_rate"],
        select="result/accuracy",
        patience=3,
        progress=False,
    )
    seconds = time.perf_counter() - began
    test = evaluate(model, batches["test"])
    name = fusion if len(modalities) == len(MODALITIES) else f"only {' and '.join(modalities)}"
    save(model, folder / "models" / name)
    whole = len(modalities) == len(MODALITIES)
    hidden = {name: evaluate(model, batches["test"], hide=[name]) for name in modalities if whole}
    return {
        "model": name,
        "modalities": list(modalities),
        "accuracy": test.numbers["result/accuracy"],
        "mae": test.numbers["value/mae"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "hidden": {name: report.numbers["result/accuracy"] for name, report in hidden.items()},
        "weights": test.weights,
        "validation_accuracy": max(history["validation/result/accuracy"]),
        "train_loss": history["train/result/loss"],
        "validation_curve": history["validation/result/accuracy"],
        "answers": predict(model, batches["test"]) if whole else [],
    }


def make_model(train: Table, fusion: str, modalities: tuple[str, ...], audio: str) -> MultimodalModel:
    """Small encoders with random weights, one fusion, two tasks. All statistics are those of the training rows."""
    texts = train.column("text")
    make = {
        "image": lambda: ViTEncoder.preset("tiny"),
        "audio": AUDIO[audio],
        "text": lambda: TextEncoder.preset("tiny", tokenizer=train_tokenizer(texts, vocab_size=300), pool="mean"),
    }
    dim = 64 if fusion == "CrossAttention" else 256  # it spends its width on every token
    encoders = {name: make[name]() for name in modalities}
    tasks = {
        "result": Classification(dim, train.classes("result")),
        "value": Regression(dim, **train.statistics("value")),
    }
    return MultimodalModel(encoders, FUSIONS[fusion](dims_of(encoders), dim), tasks)


def chance(folder: Path) -> dict:
    """Always the most frequent answer of training, and the mean of its numbers."""
    train, test = (read_table(folder / "data" / f"{split}.csv") for split in ("train", "test"))
    answers, mean = train.column("result"), train.statistics("value")["mean"]
    guess = max(sorted(set(answers)), key=answers.count)
    right = [answer == guess for answer in test.column("result")]
    errors = [abs(float(value) - mean) for value in test.column("value")]
    return {
        "model": "chance",
        "modalities": [],
        "accuracy": sum(right) / len(right),
        "mae": sum(errors) / len(errors),
        "parameters": 0,
        "seconds": 0.0,
    }


def ask(folder: Path, image: str, audio: str, text: str) -> None:
    """Answer one question with the saved model. '-' stands for what is absent."""
    if not (folder / "best").is_dir():
        sys.exit(f"There is no trained model in {folder}. Run this script without --ask first, or give its --folder.")
    model = load(folder / "best")
    row = {name: None if cell == "-" else cell for name, cell in zip(MODALITIES, (image, audio, text), strict=True)}
    (answer,) = predict(model, load_batches(read_table([row], outside=True), model))
    shown = ", ".join(f"{name} {cell or 'absent'}" for name, cell in row.items())
    print(f"{shown}\n-> {answer['result_predicted']} ({answer['result_probability']:.0%} sure), "
          f"as a number {answer['value_predicted']:.1f}")  # fmt: skip


def ask_in_a_new_process(folder: Path) -> None:
    """What anybody can do with the saved folder: one question of the test rows."""
    row = read_table(folder / "data" / "test.csv").rows[0]
    question = [str(folder / "data" / row["image"]), str(folder / "data" / row["audio"]), row["text"]]
    command = [sys.executable, __file__, "--folder", str(folder), "--ask", *question]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip())
    print(f"   (right: {row['result']})")


def keep_freed_memory() -> None:
    """In the processes to come: what one batch frees, the next one needs. Giving it back takes a tenth longer."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))  # of glibc, in bytes
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))


def use_one_thread(jobs: int) -> None:
    """Several trainings at once share the cores."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def names_of_fusions(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FUSIONS]:
        raise argparse.ArgumentTypeError(f"there is no fusion {unknown[0]}. Expected some of {', '.join(FUSIONS)}.")
    return names


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/digit_arithmetic"), help="where everything is written"
    )
    parser.add_argument("--audio", choices=AUDIO, default="spectrogram", help="the sound encoder")
    parser.add_argument(
        "--fusions", type=names_of_fusions, metavar="A,B", help="compare these of mmfuse.fusion.FUSIONS"
    )
    parser.add_argument("--quick", action="store_true", help="one fusion and the single modalities, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table for machines, too")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="trainings at the same time")
    parser.add_argument(
        "--ask", nargs=3, metavar=("IMAGE", "WAV", "SENTENCE"), help="answer one question; '-' is absent"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
