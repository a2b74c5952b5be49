"""StockNet's files as columns for prices_and_news.py, and what others have reached on them.

For the day that is asked about, a row has the trading days before it and the tweets of the calendar days before it.
Nothing of that day itself, or of a later one, is in the row.
"""

import gzip
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS = ("return", "high", "low", "volume")
CLIP = 0.3  # of logarithms of prices: beyond it lie splits that the files do not tell of
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
MOVEMENTS = ("down", "up")

PUBLISHED = [  # model, what it sees if that is said, accuracy in %, MCC, where
    ("Random", "", 50.89, -0.002, "Xu and Cohen 2018"),
    ("ARIMA", "price", 51.39, -0.021, "Xu and Cohen 2018"),
    ("RandForest", "", 53.08, 0.013, "Xu and Cohen 2018"),
    ("TSLDA", "", 54.07, 0.065, "Xu and Cohen 2018"),
    ("HAN", "", 57.64, 0.052, "Xu and Cohen 2018"),
    ("StockNet, Technical", "price", 54.96, 0.016, "Xu and Cohen 2018"),
    ("StockNet, Fundamental", "tweets", 58.23, 0.072, "Xu and Cohen 2018"),
    ("StockNet, Independent", "both", 57.54, 0.037, "Xu and Cohen 2018"),
    ("StockNet, Discriminative", "both", 56.15, 0.056, "Xu and Cohen 2018"),
    ("StockNet, HedgeFund", "both", 58.23, 0.081, "Xu and Cohen 2018"),
    ("LSTM", "price", 53.18, 0.067, "Feng et al. 2019"),
    ("ALSTM", "price", 54.90, 0.104, "Feng et al. 2019"),
    ("Adv-ALSTM", "price", 57.20, 0.148, "Feng et al. 2019"),
]


def read_stocknet(folder: Path, *, days: int, tweet_days: int) -> dict[str, list[Any]]:
    """The columns stock, date, price, tweets, movement and split, with a cell for each day that is asked about.

    Args:
        folder: with stocknet.npz and tweets.jsonl.gz.
        days: trading days before the day asked about; fewer where a stock is younger, None where it has none.
        tweet_days: calendar days before it whose tweets are read, the latest first; None where there are none.
    """
    with np.load(folder / "stocknet.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    tweets = read_tweets(folder / "tweets.jsonl.gz")
    stocks, offset = arrays["stocks"].tolist(), arrays["price_offset"]
    histories = [slice(offset[i], offset[i + 1]) for i in range(len(stocks))]
    dates = [arrays["price_date"][history] for history in histories]
    steps = [steps_of(arrays["price"][history]) for history in histories]

    asked = list(zip(arrays["sample_stock"].tolist(), arrays["sample_date"].tolist(), strict=True))
    before = [int(np.searchsorted(dates[stock], day)) for stock, day in asked]  # the first day that is not before
    cut = [steps[stock][max(0, end - days) : end] for (stock, _), end in zip(asked, before, strict=True)]
    return {
        "stock": [stocks[stock] for stock, _ in asked],
        "date": [day for _, day in asked],
        "price": [history if len(history) else None for history in cut],
        "tweets": [join(tweets.get(stocks[stock], {}), day, tweet_days) for stock, day in asked],
        "movement": [MOVEMENTS[label] for label in arrays["sample_label"].tolist()],
        "split": [SPLITS[split] for split in arrays["sample_split"].tolist()],
    }


def steps_of(price: np.ndarray) -> np.ndarray:
    """The channels of each day: all relative to the same day, or to days before it.

    The return since the day before, the highest and the lowest price against the opening one, and the volume against
    that of the ten days before, as logarithms. Not the prices as the files have them: they are divided by the adjusted
    price of the day before, which knows the dividends of later years.
    """
    movement, opened, high, low, _, volume = price.astype(np.float64).T
    highest, lowest = np.log((1 + high) / (1 + opened)), np.log((1 + low) / (1 + opened))
    logs = np.log1p(volume)
    usual = [logs[max(0, i - 10) : i].mean() if i else logs[0] for i in range(len(logs))]
    parts = [*(part.clip(-CLIP, CLIP) for part in (np.log1p(movement), highest, lowest)), (logs - usual).clip(-3, 3)]
    return np.stack(parts, axis=1).astype(np.float32)


def read_tweets(path: Path) -> dict[str, dict[str, list[str]]]:
    """stock -> day -> tweets, each once: retweets are the same text again."""
    found: dict[str, dict[str, list[str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            found.setdefault(row["stock"], {})[row["date"]] = list(dict.fromkeys(row["tweets"]))
    return found


def join(tweets: dict[str, list[str]], day: str, count: int) -> str | None:
    """The tweets of the days before one, the latest day first."""
    last = date.fromisoformat(day)
    found = [tweet for i in range(1, count + 1) for tweet in tweets.get(str(last - timedelta(days=i)), [])]
    return " ; ".join(found) or None
