"""Search for the fusion, the widths and the learning rate of the main example, with Optuna.

    python examples/tune.py                            # 20 trials; about five minutes of one core
    python examples/tune.py --train 7 --epochs 12      # train longer with the parameters of trial 7

Every trial is a run of ``fit`` on the training rows of digit_arithmetic.py, scored by its validation rows, and ended
early if it is worse than most at the same step. The test rows are read once, by the model of the best trial. Killed and
started again, the search goes on within the trial and epoch where it was; one process at a time.
"""

import argparse
import shutil
import sys
from pathlib import Path

from digit_arithmetic import names_of_fusions
from digit_arithmetic_data import make_data
from tune_pictures import draw_study
from tune_study import METRIC, Log, open_study, run_trial, saved_share, trials_of

from mmfuse import MultimodalModel, dims_of, load, save
from mmfuse.data import Table, load_batches, read_table
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SpectrogramEncoder, TextEncoder, ViTEncoder
from mmfuse.evaluation import evaluate
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification, Regression
from mmfuse.training import fit, seed_everything

FULL = {
    "rows": {"train": 3000, "validation": 400, "test": 1000},
    "epochs": 4,
    "trials": 20,
    "fusions": ["Concat", "LowRankFusion", "GatedFusion", "CrossAttention"],
}
QUICK = {
    "rows": {"train": 500, "validation": 40, "test": 40},  # fewer would lack some of the classes
    "epochs": 2,
    "trials": 3,
    "fusions": ["Concat", "LowRankFusion"],
}


def main() -> None:
    options = parse_options()
    size = QUICK if options.quick else FULL
    fusions, trials = options.fusions or size["fusions"], options.trials or size["trials"]
    settings = {"seed": options.seed, "epochs": size["epochs"], "rows": size["rows"], "fusions": fusions}
    study = open_study(options.folder, settings)
    tables = read_data(options.folder / "data", size["rows"])
    if options.train is not None:
        train_longer(options, tables, study.trials)
        return

    def train(trial, log: Log) -> float:
        chosen = suggest(trial, fusions)
        print(f"trial {trial.number:3}  {shown(chosen)}", end="  ", flush=True)
        folder = options.folder / "trials" / f"{trial.number:03}"
        return train_one(tables, chosen, folder, epochs=size["epochs"], seed=options.seed, log=log)

    for trial in trials_of(study, fusions, trials, options.seed):
        print(run_trial(study, trial, train), flush=True)
    tell_best(options.folder, study, tables, size["epochs"])


def suggest(trial, fusions: list[str]) -> dict:
    """What one trial tries."""
    return {
        "fusion": trial.suggest_categorical("fusion", fusions),
        "width": trial.suggest_int("width", 32, 96, step=32),  # of the encoders
        "dim": trial.suggest_int("dim", 64, 192, step=64),  # of the fusion
        "learning_rate": trial.suggest_float("learning_rate", 2e-4, 2e-2, log=True),
    }


def train_one(
    tables: dict[str, Table], chosen: dict, folder: Path, *, epochs: int, seed: int, log: Log | None
) -> float:
    """Train on the training rows, save the model of the best epoch, and return its validation accuracy."""
    seed_everything(seed)
    rate = chosen["learning_rate"]
    model = make_model(tables["train"], chosen["fusion"], chosen["width"], chosen["dim"])
    history = fit(
        model,
        batches_of(tables["train"], model, train=True, seed=seed),
        batches_of(tables["validation"], model),
        epochs=epochs,
        learning_rate=rate,
        select="result/accuracy",
        folder=folder,
        resume=True,
        seed=seed,
        log=log,
        progress=False,
    )
    save(model, folder / "model")
    return max(history[METRIC])


def make_model(train: Table, fusion: str, width: int, dim: int) -> MultimodalModel:
    """The model of the main example, its encoders ``width`` wide and its fusion ``dim``."""
    tokenizer = train_tokenizer(train.column("text"), vocab_size=300)
    layers = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    layers |= {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    encoders = {
        "image": ViTEncoder({"model_type": "vit", "image_size": 32, "patch_size": 8, **layers}, pool="mean"),
        "audio": SpectrogramEncoder.preset("tiny", dim=width, rate_hz=8000, num_mels=40, hop_ms=20.0),
        "text": TextEncoder({"model_type": "bert", **words, **layers}, tokenizer, pool="mean"),
    }
    tasks = {
        "result": Classification(dim, train.classes("result")),
        "value": Regression(dim, **train.statistics("value")),
    }
    return MultimodalModel(encoders, FUSIONS[fusion](dims_of(encoders), dim), tasks)


def batches_of(table: Table, model: MultimodalModel, *, train: bool = False, seed: int = 0):
    as_it_is = {"image": model.encoders["image"].transform()}  # no random crops
    return load_batches(table, model, train=train, cache=True, transforms=as_it_is, seed=seed)


def read_data(folder: Path, rows: dict[str, int]) -> dict[str, Table]:
    """The tables of the main example, made if they are not there."""
    if not folder.is_dir():
        print(f"Writing images, voices and tables to {folder} ...", flush=True)
        new = folder.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        make_data(new, rows=rows)
        new.rename(folder)
    return {split: read_table(folder / f"{split}.csv") for split in ("train", "validation", "test")}


def tell_best(folder: Path, study, tables: dict[str, Table], epochs: int) -> None:
    """Print the best trial, how to train with it, and what pruning saved; draw the study."""
    best, pruned = study.best_trial, sum(trial.state.name == "PRUNED" for trial in study.trials)
    model = load(folder / "trials" / f"{best.number:03}" / "model")
    save(model, folder / "best")
    test = evaluate(model, batches_of(tables["test"], model)).numbers["result/accuracy"]
    print(f"\nBest: trial {best.number}, {shown(best.params)}: {best.value:.1%} of the validation rows, {test:.1%} of "
          f"the test rows are right. Saved to {folder / 'best'}.")  # fmt: skip
    print(f"Train longer with it: python {sys.argv[0]} --folder {folder} --train {best.number} --epochs {3 * epochs}")
    print(f"Pruned: {pruned} of {len(study.trials)} trials ({pruned / len(study.trials):.0%}), which saved "
          f"{saved_share(study, epochs):.0%} of the epochs.")  # fmt: skip
    draw_study(study, folder / "study.png")
    print(f"Picture: {folder / 'study.png'}")


def train_longer(options: argparse.Namespace, tables: dict[str, Table], trials: list) -> None:
    """Train anew with the parameters of a trial, and answer the test rows."""
    if not 0 <= options.train < len(trials):
        sys.exit(f"There is no trial {options.train} in {options.folder}. Expected one of 0 to {len(trials) - 1}.")
    chosen = trials[options.train].params
    folder = options.folder / f"trained-{options.train:03}"
    print(f"Training {shown(chosen)} for {options.epochs} epochs ...", flush=True)
    score = train_one(tables, chosen, folder, epochs=options.epochs, seed=options.seed, log=None)
    model = load(folder / "model")
    test = evaluate(model, batches_of(tables["test"], model)).numbers["result/accuracy"]
    print(f"{score:.1%} of the validation rows, {test:.1%} of the test rows are right. Saved to {folder / 'model'}.")


def shown(chosen: dict) -> str:
    """The parameters of a trial in a line."""
    return f"{chosen['fusion']}, {chosen['width']} to {chosen['dim']} wide, rate {chosen['learning_rate']:.5f}"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/tune"), help="where everything is written")
    parser.add_argument("--trials", type=int, help="so many in all, with those of earlier calls (default 20)")
    parser.add_argument("--fusions", type=names_of_fusions, metavar="A,B",
                        help="try these of mmfuse.fusion.FUSIONS")  # fmt: skip
    parser.add_argument("--train", type=int, metavar="N", help="no search: train with the parameters of trial N")
    parser.add_argument("--epochs", type=int, default=15, help="with --train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three trials on few rows: only to see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
