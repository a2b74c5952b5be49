"""The example with prices and tweets, on a small folder in the format of StockNet."""

import gzip
import json
import os
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import prices_and_news as example
import prices_and_news_data as data
import pytest

from mmfuse.data import read_table

pytestmark = pytest.mark.plain
START, DAYS = date(2015, 1, 5), 60
STOCKS = ("AAPL", "XOM", "KO")


def write_folder(folder, spoil=None):
    """Three stocks with prices on weekdays, tweets on some days. What ``spoil`` says is put in place of both."""
    random = np.random.default_rng(0)
    days = [str(day) for i in range(DAYS * 7 // 5) if (day := START + timedelta(days=i)).weekday() < 5]
    prices, tweets, asked = [], [], []
    for number, stock in enumerate(STOCKS):
        movement = 0.02 * random.standard_normal(len(days))
        opened = 0.05 + 0.005 * random.standard_normal(len(days))
        volume = np.exp(random.normal(15, 0.3, len(days)))
        rows = np.stack([movement, opened, opened + 0.01, opened - 0.01, movement * 80, volume], axis=1)
        prices.append(rows)
        asked += [(number, day, i) for i, day in enumerate(days) if i > 0]
        for i, day in enumerate(days):
            if random.random() < 0.4:
                tweets.append(
                    {"stock": stock, "date": day, "tweets": [f"$ {stock} goes {'up' if i % 2 else 'down'}"] * 2}
                )
    price = np.concatenate(prices).astype(np.float32)
    arrays = {
        "stocks": np.array(STOCKS),
        "price": price,
        "price_date": np.array(days * len(STOCKS)),
        "price_offset": np.arange(len(STOCKS) + 1) * len(days),
        "sample_stock": np.array([stock for stock, _, _ in asked], dtype=np.int16),
        "sample_date": np.array([day for _, day, _ in asked]),
        "sample_label": np.array([int(price[s * len(days) + i, 0] > 0) for s, _, i in asked], dtype=np.int8),
        "sample_split": np.array([("train", "dev", "test")[(i > 40) + (i > 50)] for _, _, i in asked]),
    }
    if spoil is not None:
        spoil(arrays, tweets)
    np.savez(folder / "stocknet.npz", **arrays)
    with gzip.open(folder / "tweets.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in tweets)
    return folder


def read(folder, spoil=None):
    folder.mkdir(exist_ok=True)
    return data.read_stocknet(write_folder(folder, spoil), days=10, tweet_days=3)


def same(left, right, row):
    a, b = left["price"][row], right["price"][row]
    return np.array_equal(a, b) and left["tweets"][row] == right["tweets"][row]


def spoil_from(day, first):
    """Other prices, volumes and tweets on a day and all later ones, or with ``first`` on that day alone."""

    def spoil(arrays, tweets):
        wrong = arrays["price_date"] == day if first else arrays["price_date"] >= day
        arrays["price"][wrong] = [0.5, 0.7, 0.9, 0.6, 55, 1e9]
        for row in tweets:
            if row["date"] == day or (row["date"] > day and not first):
                row["tweets"] = ["news of the day itself"]
        known = {(row["stock"], row["date"]) for row in tweets}
        tweets += [{"stock": s, "date": day, "tweets": ["more news"]} for s in STOCKS if (s, day) not in known]

    return spoil


def test_nothing_of_the_day_asked_about_or_later_is_in_a_row(tmp_path):
    clean = read(tmp_path / "clean")

    for day in ("2015-01-20", "2015-02-16", "2015-03-09"):
        spoiled = read(tmp_path / "spoiled", spoil_from(day, first=False))
        rows = [row for row, asked in enumerate(clean["date"]) if asked <= day]
        assert day in {clean["date"][row] for row in rows}
        assert all(same(clean, spoiled, row) for row in rows)


def test_the_day_before_is_in_a_row(tmp_path):
    clean = read(tmp_path / "clean")

    spoiled = read(tmp_path / "spoiled", spoil_from("2015-02-16", first=True))

    rows = [row for row, asked in enumerate(clean["date"]) if asked == "2015-02-17"]
    assert len(rows) == len(STOCKS)
    for row in rows:
        assert not np.array_equal(clean["price"][row][-1], spoiled["price"][row][-1])
        assert np.array_equal(clean["price"][row][:-1], spoiled["price"][row][:-1])
        assert "news" in spoiled["tweets"][row]


def test_a_row_has_the_last_days_of_its_stock_and_the_latest_tweets_first(tmp_path):
    columns = read(tmp_path / "data")
    row = next(i for i, day in enumerate(columns["date"]) if day == "2015-02-18" and columns["stock"][i] == "XOM")

    with np.load(tmp_path / "data" / "stocknet.npz") as file:
        prices = file["price"][file["price_offset"][1] : file["price_offset"][2]]
        dates = file["price_date"][file["price_offset"][1] : file["price_offset"][2]]
    end = dates.tolist().index("2015-02-18")

    assert columns["price"][row].shape == (10, len(data.CHANNELS))
    np.testing.assert_allclose(columns["price"][row][:, 0], np.log1p(prices[end - 10 : end, 0]), rtol=1e-5)
    assert len(columns["price"][0]) == 1  # the second day of a stock
    assert columns["movement"][row] == ("up" if prices[end, 0] > 0 else "down")
    tweets = {"2015-02-17": ["a", "b"], "2015-02-16": ["c"], "2015-02-18": ["not this"], "2015-02-14": ["too old"]}
    assert data.join(tweets, "2015-02-18", 3) == "a ; b ; c"
    assert data.join(tweets, "2015-02-14", 3) is None


def test_a_level_that_knows_later_dividends_is_not_seen(tmp_path):
    def adjust(arrays, _):  # as if a dividend were paid after the last day: open, high and low are moved together
        arrays["price"][:, 1:4] = (1 + arrays["price"][:, 1:4]) * 1.05 - 1

    clean, adjusted = read(tmp_path / "clean"), read(tmp_path / "adjusted", adjust)

    for before, after in zip(clean["price"], adjusted["price"], strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)


def test_words_and_scales_come_from_training_rows(tmp_path):
    def speak(arrays, tweets):
        for row in tweets:
            row["tweets"] = ["zebra" if row["date"] > "2015-03-12" else "apple"]
        arrays["price"][arrays["price_date"] > "2015-03-12", 5] *= 100

    table = read_table(read(tmp_path / "data", speak))
    train = table.where("split", "train")
    model = example.make_model("Concat", train)

    vocabulary = model.encoders["tweets"].encoder.tokenizer.get_vocab()
    assert "apple" in vocabulary
    assert "zebra" not in vocabulary
    volumes = np.concatenate(train.column("price"))[:, 3]
    assert model.encoders["price"].transform().mean[3] == pytest.approx(volumes.mean(), abs=1e-6)


def test_the_whole_example_prints_ours_beside_the_published_numbers(tmp_path):
    write_folder(tmp_path)
    script = str(Path(example.__file__))

    done = subprocess.run(
        [sys.executable, script, "--data", str(tmp_path), "--epochs", "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert re.search(r"120 train, 30 validation, 27 test rows; \d+% without a tweet", printed), printed
    for name in (*example.MODELS, "mean of the two alone", "always the more frequent"):
        assert re.search(rf"^{name} .*\d+\.\d\d +\d+\.\d to \d+\.\d +-?\d\.\d{{3}}$", printed, re.MULTILINE), name
    assert re.search(r"StockNet, HedgeFund +both +58.23 +0.081 +Xu and Cohen 2018", printed)
    assert re.search(r"Adv-ALSTM +price +57.20 +0.148 +Feng et al. 2019", printed)
    assert "The task is near chance: of 27 rows a coin gets" in printed
    assert "too long" not in done.stderr


def test_the_interval_is_that_of_wilson():
    assert example.interval(0.5, 3720) == "48.4 to 51.6"
    assert example.interval(1.0, 10) == "72.2 to 100.0"
