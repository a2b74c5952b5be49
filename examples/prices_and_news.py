"""Prices and tweets of the days before -> does a stock rise or fall? A task near chance, and many days without news.

    python examples/prices_and_news.py --data FOLDER            # stocknet.npz and tweets.jsonl.gz, see below
    python examples/prices_and_news.py --data FOLDER --quick    # a part of the rows, under a minute

FOLDER holds the data of StockNet (Xu and Cohen, 2018, https://aclanthology.org/P18-1183, the files of
https://github.com/yumoxu/stocknet-dataset): ``stocknet.npz`` with the arrays stocks, price_date, price, price_offset,
sample_stock, sample_date, sample_label and sample_split, and ``tweets.jsonl.gz`` with stock, date and tweets in each
line. The rows are split by date, as published. Everything in a row was known before the day that it asks about, the
vocabulary and the scales come from training rows, and the epoch is chosen by the validation rows (August and September
2015); the test rows (October to December) are looked at once.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from prices_and_news_data import MOVEMENTS, PUBLISHED, read_stocknet
from sklearn.metrics import accuracy_score, matthews_corrcoef

from mmfuse import MultimodalModel, dims_of
from mmfuse.data import Table, load_batches, read_table, series_statistics
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SeriesEncoder, SkipAbsent, TextEncoder
from mmfuse.evaluation import predict
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification
from mmfuse.training import fit, seed_everything

DAYS, TWEET_DAYS = 10, 3
DIM = 64
TEXT = {"pool": "mean", "max_length": 48}  # the latest tweets stand first
MODELS = {  # what each sees, its fusion
    "only price": (("price",), "Concat"),
    "only tweets": (("tweets",), "Concat"),
    "Concat": (("price", "tweets"), "Concat"),
    "GatedFusion": (("price", "tweets"), "GatedFusion"),
}


def main() -> None:
    options = parse_options()
    warnings.filterwarnings("ignore", message=".*'tweets' were too long")  # older tweets are meant to be cut off
    began = time.perf_counter()
    table = read_table(read_stocknet(options.data, days=DAYS, tweet_days=TWEET_DAYS))
    tables = {split: table.where("split", split) for split in ("train", "validation", "test")}
    if options.quick:
        tables |= {split: tables[split].take(range(0, len(tables[split]), 10)) for split in ("train", "validation")}
    silent = sum(text is None for text in table.column("tweets")) / len(table)
    print(", ".join(f"{len(part)} {name}" for name, part in tables.items()), f"rows; {silent:.0%} without a tweet")

    epochs = options.epochs or (2 if options.quick else 3)
    up = {name: train_one(name, tables, epochs) for name in MODELS}
    up["mean of the two alone"] = [(a + b) / 2 for a, b in zip(up["only price"], up["only tweets"], strict=True)]
    print_table(tables, up)
    print(f"\n{time.perf_counter() - began:.0f} s in all.")


def make_model(name: str, train: Table) -> MultimodalModel:
    """Small encoders with random weights; what they know of the data is of training rows."""
    sees, fusion = MODELS[name]
    make = {
        "price": lambda: SeriesEncoder(DIM, **series_statistics(train, "price")),
        "tweets": lambda: SkipAbsent(TextEncoder.preset("tiny", tokenizer=words_of(train), **TEXT)),
    }
    encoders = {modality: make[modality]() for modality in sees}
    return MultimodalModel(
        encoders, FUSIONS[fusion](dims_of(encoders), DIM), {"movement": Classification(DIM, MOVEMENTS)}
    )


def words_of(train: Table):
    """A tokenizer that has seen the training rows, and no other."""
    return train_tokenizer(train.column("tweets"), vocab_size=4000)


def train_one(name: str, tables: dict[str, Table], epochs: int) -> list[float]:
    """Train one model; the probability that it gives to "up" for each test row."""
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
        learning_rate=1e-3,
        weight_decay=0.1,
        select="movement/balanced_accuracy",  # most stocks fell in the months of validation
        progress=False,
    )
    chosen = max(history["validation/movement/balanced_accuracy"])
    print(
        f"{name:12} epoch {history.best_epoch} of {epochs}, balanced accuracy {chosen:.2%} in validation, "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return [row["movement_p(up)"] for row in predict(model, batches["test"], truncate=True)]


def print_table(tables: dict[str, Table], up: dict[str, list[float]]) -> None:
    """Ours and what was published, by accuracy and Matthews' correlation."""
    labels = tables["test"].column("movement")
    print(f"\n{'model':26} {'sees':14} {'accuracy %':>10} {'95 %':>13} {'MCC':>7}")
    for name, chances in up.items():
        answers = [MOVEMENTS[p > 0.5] for p in chances]
        show(name, ", ".join(MODELS.get(name, (("price", "tweets"), ""))[0]), labels, answers)
    before = tables["train"].column("movement")
    show("always the more frequent", "", labels, [max(MOVEMENTS, key=before.count)] * len(labels))
    print("\nPublished, on the same days:")
    for name, sees, accuracy, mcc, where in PUBLISHED:
        print(f"{name:26} {sees:14} {accuracy:10.2f} {'':13} {mcc:7.3f}   {where}")
    print(
        f"\nThe task is near chance: of {len(labels)} rows a coin gets {interval(0.5, len(labels))} % in 95 of 100 "
        "draws.\nStocks move together, so the rows of a day are no independent draws, and the true intervals are wider."
    )


def show(name: str, sees: str, labels: Sequence[str], answers: Sequence[str]) -> None:
    accuracy = accuracy_score(labels, answers)
    mcc = matthews_corrcoef(labels, answers)
    print(f"{name:26} {sees:14} {100 * accuracy:10.2f} {interval(accuracy, len(labels)):>13} {mcc:7.3f}")


def interval(share: float, count: int) -> str:
    """95 % of a binomial share, in per cent: Wilson (1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return f"{100 * (middle - half):.1f} to {100 * (middle + half):.1f}"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", required=True, help="stocknet.npz and tweets.jsonl.gz")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows to train on, two epochs")
    parser.add_argument("--epochs", type=int, help="passes over the training rows")
    return parser.parse_args()


if __name__ == "__main__":
    main()
