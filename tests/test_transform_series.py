"""Time series: from every form of cell, evenly and unevenly sampled, with gaps, standardised by the training table."""

import io
import json
import math
import pickle

import numpy as np
import pytest
import torch

import mmfuse
from mmfuse import MultimodalModel
from mmfuse._record import arguments_of
from mmfuse.data import DataError, load_batches, read_table, series_statistics
from mmfuse.data.transforms import SeriesTransform, Transform
from mmfuse.encoders import SeriesEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

NAN = float("nan")
SERIES = np.array([[1.0, 10.0], [2.0, 30.0], [4.0, 20.0], [3.0, 50.0]])
SECONDS = np.array([0.0, 0.5, 1.0, 3.0])
PLAIN = SeriesTransform(2, mean=[2.0, 20.0], std=[0.5, 10.0])
STANDARD = torch.tensor([[-2.0, -1.0], [0.0, 1.0], [4.0, 0.0], [2.0, 3.0]])


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays) if len(arrays) > 1 else np.save(file, next(iter(arrays.values())))
    return file.getvalue()


def write(folder, kind):
    """The series as a file, by its bytes and by its path."""
    path = folder / f"series.{kind}"
    if kind == "npy":
        np.save(path, SERIES)
    elif kind == "npz":
        np.savez_compressed(path, SERIES)
    elif kind == "csv":
        path.write_text("x,y\n" + "\n".join(",".join(map(str, row)) for row in SERIES.tolist()) + "\n")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"x": SERIES[:, 0], "y": SERIES[:, 1]}), path)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "parquet"])
def test_a_file_is_read_by_its_path_and_by_its_bytes(tmp_path, kind):
    path = write(tmp_path, kind)

    by_path, by_bytes = PLAIN(path), PLAIN(path.read_bytes())

    torch.testing.assert_close(by_path, STANDARD)
    torch.testing.assert_close(by_bytes, STANDARD)


@pytest.mark.parametrize(
    "cell", [SERIES, SERIES.astype(np.int16), SERIES.tolist(), torch.from_numpy(SERIES).half(), SERIES.tolist()]
)
def test_arrays_tensors_and_lists_are_series(cell):
    torch.testing.assert_close(PLAIN(cell), STANDARD)


def test_one_channel_may_have_one_axis():
    series = SeriesTransform(1)([1.0, 2.0, 4.0])

    torch.testing.assert_close(series, torch.tensor([[1.0], [2.0], [4.0]]))


def test_a_large_level_keeps_its_small_changes():
    # float32 has steps of 64 at a thousand million: standardised first, in float64.
    series = SeriesTransform(1, mean=[1e9], std=[1.0])([1e9, 1e9 + 1, 1e9 - 2])

    torch.testing.assert_close(series[:, 0], torch.tensor([0.0, 1.0, -2.0]))


def test_gaps_are_filled_with_the_mean_flagged_and_timed():
    transform = SeriesTransform(2, mean=[2.0, 20.0], std=[0.5, 10.0], gaps="keep")

    series = transform([[1.0, None], [None, None], [None, 40.0], [3.0, 20.0], [3.0, 20.0]])

    assert transform.width == series.shape[1] == 6
    torch.testing.assert_close(series[:, 0], torch.tensor([-2.0, 0, 0, 2, 2]))
    torch.testing.assert_close(series[:, 1], torch.tensor([0.0, 0, 2, 0, 0]))
    torch.testing.assert_close(series[:, 2:4].T, torch.tensor([[1.0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]))
    torch.testing.assert_close(series[:, 4].exp(), torch.tensor([1.0, 1, 2, 3, 1]))  # the first is set to 0
    torch.testing.assert_close(series[:, 5].exp(), torch.tensor([1.0, 1, 2, 1, 1]))


def test_the_time_since_a_channel_was_seen_equals_the_equation_of_gru_d():
    generator = np.random.default_rng(0)
    series = generator.normal(size=(30, 3))
    series[generator.random((30, 3)) < 0.6] = NAN
    seconds = np.cumsum(generator.random(30) + 0.1)

    got = SeriesTransform(3, times=3, gaps="keep")(np.c_[series, seconds])[:, 6:]

    for channel in range(3):
        delta = 0.0
        for t in range(1, 30):
            seen = not math.isnan(series[t - 1, channel])
            delta = seconds[t] - seconds[t - 1] + (0.0 if seen else delta)
            assert math.isclose(got[t, channel], math.log(delta), abs_tol=1e-5)
    torch.testing.assert_close(got[0], torch.zeros(3))


def test_uneven_steps_carry_the_standardised_logarithm_of_the_time_between_them():
    transform = SeriesTransform(2, mean=[2.0, 20.0, 0.3], std=[0.5, 10.0, 2.0], times=0)

    series = transform(np.c_[SECONDS, SERIES])

    torch.testing.assert_close(series[:, :2], STANDARD)
    between = [(math.log(s) - 0.3) / 2 for s in (0.5, 0.5, 2.0)]
    torch.testing.assert_close(series[:, 2], torch.tensor([0.0, *between]))


def test_times_are_found_by_number_and_by_name(tmp_path):
    expected = SeriesTransform(2, times=0)(np.c_[SECONDS, SERIES])
    table = "x,seconds,y\n" + "\n".join(f"{x},{t},{y}" for t, (x, y) in zip(SECONDS, SERIES, strict=True))
    (tmp_path / "a.csv").write_text(table)
    cells = [
        saved(seconds=SECONDS, values=SERIES),
        {"seconds": SECONDS.tolist(), "values": SERIES.tolist()},
        tmp_path / "a.csv",
        table.encode(),
    ]

    for cell in cells:
        torch.testing.assert_close(SeriesTransform(2, times="seconds")(cell), expected)
    torch.testing.assert_close(SeriesTransform(2, times=-1)(np.c_[SERIES, SECONDS]), expected)


def test_an_even_rate_interpolates_lines():
    seconds = np.array([5.0, 5.1, 5.35, 5.9, 6.0])
    lines = np.c_[2 * seconds, -seconds]

    series = SeriesTransform(2, times=0, rate_hz=10)(np.c_[seconds, lines])

    grid = torch.arange(11, dtype=torch.float64) / 10 + 5
    torch.testing.assert_close(series, torch.stack([2 * grid, -grid], dim=1).float())


def test_a_tone_keeps_its_frequency_at_an_even_rate():
    generator = np.random.default_rng(0)
    seconds = np.sort(generator.random(4000)) * 4
    tone = np.sin(2 * np.pi * 7 * seconds)

    series = SeriesTransform(1, times=0, rate_hz=64)(np.c_[seconds, tone])

    spectrum = torch.fft.rfft(series[:, 0][:256] if len(series) > 256 else series[:, 0]).abs()
    assert abs(spectrum.argmax().item() * 64 / min(len(series), 256) - 7) <= 0.25


def test_nothing_is_interpolated_in_a_long_gap():
    cell = np.c_[[0.0, 1.0, 5.0, 6.0], [0.0, 1.0, 5.0, 6.0]]

    series = SeriesTransform(1, times=0, rate_hz=2, max_gap_s=1.5, gaps="keep")(cell)

    observed = [1, 1, 1, *[0] * 7, 1, 1, 1]  # at 0, 0.5 and 1, then at 5, 5.5 and 6
    torch.testing.assert_close(series[:, 1], torch.tensor(observed).float())
    torch.testing.assert_close(series[:, 0], torch.arange(13) / 2 * torch.tensor(observed))
    with pytest.raises(ValueError, match=r"7 of 13 values missing \(NaN\), or in a gap of more than max_gap_s=1.5"):
        SeriesTransform(1, times=0, rate_hz=2, max_gap_s=1.5)(cell)


def test_statistics_of_a_dataset_read_each_item_once():
    class Items(torch.utils.data.Dataset):
        read = ()

        def __len__(self):
            return 5

        def __getitem__(self, row):
            self.read = (*self.read, row)
            return {"series": np.full((row + 1, 1), float(row))}

    items = Items()
    table, items.read = read_table(items), ()

    assert series_statistics(table, "series")["mean"] == [pytest.approx(40 / 15)]
    assert items.read == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("start", "rate_hz"), [(0.0, 10), (1.7e9 + 0.123, 10), (1.7e9, 1000)])
def test_rounded_times_neither_make_gaps_nor_lose_the_last_step(start, rate_hz):
    for steps in range(2, 60):
        seconds = start + np.arange(steps) / rate_hz

        series = SeriesTransform(1, times=0, rate_hz=rate_hz, max_gap_s=1 / rate_hz)(np.c_[seconds, np.ones(steps)])

        assert torch.equal(series, torch.ones(steps, 1))


def test_each_channel_is_interpolated_between_its_own_observations():
    cell = [[0.0, 0.0, 3.0], [0.5, None, 4.0], [1.0, 2.0, None]]

    series = SeriesTransform(2, times=0, rate_hz=4, gaps="keep")(cell)

    torch.testing.assert_close(series[:, 0], torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    torch.testing.assert_close(series[:, 1], torch.tensor([3.0, 3.5, 4.0, 0.0, 0.0]))
    torch.testing.assert_close(series[:, 3], torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))


def test_what_is_cut_off_is_counted():
    transform = SeriesTransform(1, max_steps=3)

    tensors, lost = transform.batch([[1.0] * 5, [1.0, 2.0], [1.0] * 3])

    assert [len(t) for t in tensors] == [3, 2, 3]
    assert lost == [2, 0, 0]
    assert SeriesTransform(1).batch([[1.0] * 5])[1] == [0]


@pytest.mark.parametrize("options", [{}, {"gaps": "keep"}, {"times": 0}, {"times": 0, "gaps": "keep", "rate_hz": 5}])
def test_keeps_the_protocol_of_a_transform(options):
    transform = SeriesTransform(3, **options)

    again = pickle.loads(pickle.dumps(transform))

    assert isinstance(transform, Transform)
    assert arguments_of(again) == {"channels": 3, **options}
    assert transform.blank().shape == (1, transform.width)


# Tables with a header, and times


def csv_of(header, *rows):
    return "\n".join([header, *rows]).encode()


def parquet_of(**columns):
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def test_columns_of_a_table_with_a_header_are_found_by_their_names():
    transform = SeriesTransform(2, mean=[2.0, 20.0], std=[0.5, 10.0], names=["x", "y"])
    rows = [f"{y},{x}" for x, y in SERIES]
    cells = [
        csv_of("y,x", *rows),
        csv_of('"y", "x"', *rows),
        csv_of("# y,x", *rows),  # as numpy writes it
        parquet_of(y=SERIES[:, 1], x=SERIES[:, 0]),
        csv_of("1.0,10.0", *[f"{x},{y}" for x, y in SERIES[1:]]),  # no header: by place
        SERIES,
        saved(values=SERIES),
    ]

    for cell in cells:
        torch.testing.assert_close(transform(cell), STANDARD)


@pytest.mark.parametrize("times", ["time", 1])
def test_times_may_stand_anywhere_among_named_columns(times):
    transform = SeriesTransform(2, times=times, names=["x", "y"])
    rows = [f"{y},{t},{x}" for t, (x, y) in zip(SECONDS, SERIES, strict=True)]

    torch.testing.assert_close(
        transform(csv_of("y,time,x", *rows)), SeriesTransform(2, times=0)(np.c_[SECONDS, SERIES])
    )


def test_statistics_keep_the_names_and_the_model_finds_the_columns_by_them(tmp_path):
    random = np.random.default_rng(0)
    table = table_of(
        csv_of("time,x,z", *[f"{t},{random.normal():.3f},{5 + random.normal():.3f}" for t in range(9)]),
        csv_of("z,x,time", *[f"{5 + random.normal():.3f},{random.normal():.3f},{t}" for t in range(9)]),
    )

    encoder = SeriesEncoder(8, **series_statistics(table, "series", reading={"times": "time"}))

    assert arguments_of(encoder)["reading"] == {"names": ["x", "z"], "times": "time"}
    assert arguments_of(encoder)["mean"] == pytest.approx([0, 5, 0], abs=0.6)
    read = SeriesTransform(**json.loads(json.dumps(arguments_of(encoder.transform()))))
    rows = [(t, t / 7, 5 - t / 9) for t in range(5)]
    plain = read(csv_of("time,x,z", *[f"{t},{x},{z}" for t, x, z in rows]))
    torch.testing.assert_close(read(csv_of("time,z,x", *[f"{t},{z},{x}" for t, x, z in rows])), plain)


def test_statistics_of_tables_whose_names_are_not_different_go_by_place():
    found = series_statistics(table_of(csv_of("x,x", "1,2", "2,1")), "series")

    assert found["mean"] == [1.5, 1.5]
    assert "reading" not in found


def test_a_table_with_times_is_read_once(monkeypatch):
    calls = []
    parse = np.loadtxt
    monkeypatch.setattr(np, "loadtxt", lambda *args, **options: calls.append(1) or parse(*args, **options))

    SeriesTransform(1, times="hours")(csv_of("hours,x", "0,1", "1,2"))

    assert len(calls) == 1


@pytest.mark.parametrize("start", ["2024-01-01 00:00:00", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00+02:00"])
def test_points_of_time_become_seconds(start):
    tail = start[19:]
    stamps = [start, start[:17] + "00.500" + tail, start[:17] + "01" + tail, start[:17] + "03" + tail]
    rows = [f"{t},{x},{y}" for t, (x, y) in zip(stamps, SERIES, strict=True)]
    expected = SeriesTransform(2, times=0)(np.c_[SECONDS, SERIES])

    for times, cell in (
        ("when", csv_of("when,x,y", *rows)),
        (0, csv_of(*rows)),
        ("when", csv_of("when,x,y", *[f'"{row.replace(",", chr(34) + ",", 1)}' for row in rows])),
        ("when", {"when": stamps, "values": SERIES.tolist()}),
    ):
        torch.testing.assert_close(SeriesTransform(2, times=times)(cell), expected)


def test_times_of_parquet_and_numpy_become_seconds():
    stamps = np.datetime64("2024-01-01") + (SECONDS * 1000).astype("timedelta64[ms]")
    expected = SeriesTransform(1, times=0)(np.c_[SECONDS, SERIES[:, 0]])

    table = parquet_of(x=SERIES[:, 0], when=stamps)

    torch.testing.assert_close(SeriesTransform(1, times="when")(table), expected)
    torch.testing.assert_close(SeriesTransform(1, times="t")({"t": stamps, "v": SERIES[:, 0]}), expected)


def test_without_a_rate_any_unit_of_time_gives_the_same():
    cells = [np.c_[SECONDS * unit, SERIES] for unit in (1, 1 / 3600)]

    seconds, hours = (
        SeriesEncoder(8, **series_statistics(table_of(cell), "series", reading={"times": 0})).transform()
        for cell in cells
    )

    torch.testing.assert_close(seconds(cells[0]), hours(cells[1]))


def test_a_file_that_will_not_say_whether_its_first_column_is_times_is_warned_of():
    cells = [np.c_[np.arange(6) / 50, np.ones(6)], np.c_[np.arange(9) / 50, np.ones(9)]]
    named = csv_of("index,x", *[f"{t},1" for t in range(9)])

    with pytest.warns(UserWarning, match=r"column 0 of the series in column 'series' grows.*reading=\{'times': 0\} if"):
        found = series_statistics(table_of(*cells), "series")
    with pytest.warns(UserWarning, match=r"column 'index' of the series.*reading=\{'times': 'index'\} if so"):
        series_statistics(table_of(named), "series")

    assert found["channels"] == 2
    for said in ({"times": False}, {"times": 0}):
        series_statistics(table_of(*cells), "series", reading=said)
    series_statistics(table_of(*cells, np.c_[[1.0, 0.0], [1.0, 1.0]]), "series")  # does not grow everywhere


@pytest.mark.plain
@pytest.mark.parametrize(
    "name", ["time", "Timestamp", "t", "seconds", "hours", "date", "DateTime", "time_s", "time (ms)"]
)
def test_a_column_that_is_called_as_times_are_has_to_be_said_to_be_a_channel(name):
    table = table_of(csv_of(f"x,{name},z", "1,0,3", "4,1,6"))

    with pytest.raises(
        DataError, match=r"have a column '.*'\. Expected to be told.*\{'times': '.*'\} if it does, and "
    ):
        series_statistics(table, "series")

    assert series_statistics(table, "series", reading={"times": name})["channels"] == 2
    kept = series_statistics(table, "series", reading={"times": False})
    assert kept["channels"] == 3
    assert SeriesEncoder(8, **kept).transform().width == 3


@pytest.mark.plain
def test_a_column_of_points_of_time_has_to_be_said_to_be_the_times():
    table = table_of(csv_of("when,x", "2024-01-01,1", "2024-01-02,2"))

    with pytest.raises(DataError, match=r"have a column 'when'.*reading=\{'times': 'when'\} if it does"):
        series_statistics(table, "series")
    with pytest.raises(ValueError, match=r"Column 'when' of the series holds points of time\..*\{'times': 'when'\}"):
        SeriesTransform(2)(table.cell(0, "series"))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (csv_of("x,time,w", "1,0,3"), r"has no column 'z', only \['x', 'w'\]\. Expected it: a channel of the training"),
        (csv_of("x,time,Z", "1,0,3"), r"Name the columns so"),
        (
            csv_of("x,z,time,w", "1,3,0,3"),
            r"has a column 'w', which is no channel of the training data: they are \['x'",
        ),
        (csv_of("x,z,time,z", "1,3,0,3"), r"has columns \['x', 'z', 'z'\]\. Expected each of .* once\. Rename"),
        (csv_of("x,z,tme", "1,3,0"), r"has no column 'time', only .*: the times of the steps\. Did you mean 'tme'\?"),
        (csv_of("1,3,0", "1,2,1"), r"has no column 'time', and no header that names any"),
        (csv_of("time,x,z", "2024-01-01,1,2", "soon,1,2"), r"Line 3 .*hold 'soon'\. Expected points of time such as"),
        (csv_of("time,x,z", "2024-01-01,1,2", "2024-01-02T00Z,1,2"), r"Line 3 .*one has a time zone, the other has no"),
        (csv_of("time,x,z", "31.1.2024,1,2"), r"holds '31\.1\.2024'\. .*, or points of time such as 2024-01-31 12:00"),
        (
            saved(time=np.array(["2024-01-01"], dtype="datetime64[D]"), v=SERIES[:1]),
            r"type datetime64\[D\].*Convert it, with \(times - times\[0\]\) / np\.timedelta64\(1, 's'\) for example",
        ),
        ({"time": ["2024-01-01", "x"], "v": SERIES[:2]}, r"hold 'x'\. Expected points of time"),
        ({"time": ["now", "2024-01-01"], "v": SERIES[:2]}, r"hold 'now'\. Expected points of time"),
    ],
)
def test_says_what_is_wrong_with_the_columns_of_a_table(cell, message):
    with pytest.raises(ValueError, match=message) as caught:
        SeriesTransform(2, times="time", names=["x", "z"])(cell)
    assert len(str(caught.value)) <= 400


@pytest.mark.plain
def test_a_header_that_differs_from_that_of_the_first_series_is_named_with_its_line():
    table = table_of(csv_of("x,z", "1,2", "2,1"), csv_of("x,y", "1,2", "2,1"))

    with pytest.raises(DataError, match=r"row 1 of the list, column 'series'.*has no column 'z', only \['x', 'y'\]"):
        series_statistics(table, "series")
    with pytest.raises(DataError, match=r"row 1 of the list, .*has a header \['x', 'z'\], and the first of the table"):
        series_statistics(table_of(csv_of("1,2", "2,1"), csv_of("x,z", "1,2", "2,1")), "series")


# Statistics of the training table


def table_of(*cells, **options):
    return read_table([{"series": cell, "label": "ab"[i % 2]} for i, cell in enumerate(cells)], **options)


def test_statistics_are_over_all_observed_steps_of_all_series():
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(n, 2)) * [1, 1e-3] + [0, 1e6] for n in (3, 50, 1)]
    parts[1][5:9, 0] = NAN

    found = series_statistics(table_of(parts[0], None, parts[1], parts[2]), "series", reading={"gaps": "keep"})

    together = np.concatenate(parts)
    assert found["channels"] == 2
    np.testing.assert_allclose(found["mean"], np.nanmean(together, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], np.nanstd(together, axis=0), rtol=1e-6)  # a level of 1e9 deviations
    assert found["reading"] == {"gaps": "keep"}


def test_a_constant_channel_has_the_deviation_one():
    found = series_statistics(table_of([[0.1, 1.0], [0.1, 2.0]], [[0.1, 3.0]] * 7), "series")

    assert found["std"][0] == 1.0
    assert SeriesTransform(**found)([[0.1, 2.0]]).abs()[0, 0] < 1e-6


def test_statistics_of_uneven_steps_have_one_for_the_time_between_them():
    cells = [np.c_[SECONDS, SERIES], np.c_[SECONDS * 2, SERIES]]

    found = series_statistics(table_of(*cells), "series", reading={"times": 0})

    logs = np.log([0.5, 0.5, 2.0, 1.0, 1.0, 4.0])
    np.testing.assert_allclose(found["mean"], [2.5, 27.5, logs.mean()])
    np.testing.assert_allclose(found["std"][2], logs.std())


def test_standardised_training_data_has_mean_zero_and_deviation_one(tmp_path):
    generator = np.random.default_rng(1)
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", generator.normal(size=(4 + i, 3)) * [1, 5, 0.1] + [0, 7, -3])
    table = table_of(*[f"{i}.npy" for i in range(5)], root=tmp_path)

    transform = SeriesTransform(**series_statistics(table, "series"))

    steps = torch.cat([transform(tmp_path / f"{i}.npy") for i in range(5)])
    torch.testing.assert_close(steps.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(steps.std(dim=0, correction=0), torch.ones(3))


def test_a_loaded_model_standardises_as_the_training_table_did(tmp_path):
    train = table_of(SERIES, SERIES * 3)
    test = table_of(SERIES * 1000)
    encoder = SeriesEncoder(8, **series_statistics(train, "series", reading={"gaps": "keep", "max_steps": 3}))
    model = MultimodalModel(
        {"series": encoder}, Concat({"series": 8}, dim=8), {"label": Classification(8, classes=["a", "b"])}
    ).eval()

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model")

    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model"]["arguments"]["encoders"]["series"]["arguments"]["mean"] == [5.0, 55.0]
    cell = test.cell(0, "series")
    read = loaded.encoders["series"].transform()
    torch.testing.assert_close(read(cell), encoder.transform(True)(cell), rtol=0, atol=0)
    assert read.batch([SERIES])[1] == [1]
    both = np.concatenate([SERIES, SERIES * 3])
    expected = (SERIES[:3] * 1000 - both.mean(axis=0)) / both.std(axis=0)
    torch.testing.assert_close(read(cell)[:, :2], torch.from_numpy(expected).float())


def test_a_table_of_files_becomes_batches(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", generator.normal(size=(5 + 2 * i, 2)))
    lines = [f"{i}.npy,{'ab'[i % 2]}" for i in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["series,label", *lines, ",a"]) + "\n")
    table = read_table(tmp_path / "t.csv")
    encoder = SeriesEncoder(8, **series_statistics(table, "series", reading={"max_steps": 10}))
    model = MultimodalModel(
        {"series": encoder}, Concat({"series": 8}, dim=8), {"label": Classification(8, classes=["a", "b"])}
    )

    (batch,) = load_batches(table, model)

    assert batch.inputs["series"].values.shape == (5, 10, 2)
    assert batch.inputs["series"].mask.sum(dim=1).tolist() == [5, 7, 9, 10, 0]
    assert batch.inputs["series"].present.tolist() == [True] * 4 + [False]
    assert model(batch).predictions["label"].isfinite().all()
    np.save(tmp_path / "2.npy", [[1.0, NAN]])
    with pytest.raises(DataError, match=r"t\.csv line 4, column 'series': .*2\.npy.*channel 1 at step 0"):
        list(load_batches(table, model))


# What is refused


@pytest.mark.plain
@pytest.mark.parametrize(
    ("options", "cell", "message"),
    [
        ({}, np.zeros((5, 3)), r"has shape \(5, 3\): 3 channels\. Expected \(time, 2\)\. Choose the columns"),
        ({}, np.zeros((2, 9)), r"Expected \(time, 2\)\. Its first axis has 2: turn it round, array\.T"),
        ({}, [1.0, 2.0], r"has shape \(2, 1\): 1 channels\. Expected \(time, 2\)"),
        ({}, np.zeros((5, 2, 2)), r"has shape \(5, 2, 2\)\. Expected \(time, channel\).*Flatten the other axes"),
        ({}, np.zeros((0, 2)), r"has 0 steps, and no number in them\. Expected at least one\. Leave the cell empty"),
        ({"gaps": "keep"}, np.full((4, 2), NAN), r"has 4 steps, and no number in them"),
        ({}, [[1.0, 2.0], [1.0, None], [None, 2.0]], r"has 2 of 6 values missing.*the first in channel 1 at step 1\."),
        ({}, [[1.0, 2.0], [1.0, None]], r"Expected every value\. Fill them.*reading=\{'gaps': 'keep'\}"),
        ({}, [[1.0, 2.0], [math.inf, 2.0]], r"has 1 infinite values, the first in channel 0 at step 1\. Expected fin"),
        ({"std": [1e-30, 1]}, [[1e30, 2.0]], r"has 1 values that float32 cannot hold when standardised.*Mend"),
        ({}, [["a", "b"]], r"Expected"),
        ({}, [[1.0, 2.0], [1.0]], r"Expected"),
        ({}, {"t": [1.0], "v": [[1.0, 2.0]]}, r"is a mapping with \['t', 'v'\].*times='its name'"),
        (
            {"times": 0},
            np.c_[SECONDS[::-1], SERIES],
            r"do not grow at 3 steps, the first is step 1: 1 after 3\. Expect",
        ),
        ({"times": 0}, np.c_[[0, 1, 1, 2], SERIES], r"do not grow at 1 steps, the first is step 2: 1 after 1\. .*Sort"),
        ({"times": 0}, np.c_[[NAN, 1, 2, 3], SERIES], r"do not grow at 2 steps, the first is step 0: nan\. Expected"),
        ({"times": 0}, np.c_[[0, 1, 2, math.inf], SERIES], r"the first is step 3: inf after 2\. Expected finite"),
        ({"times": 5}, np.c_[SECONDS, SERIES], r"has 3 columns, and its times should be column 5\. Expected a number"),
        ({"times": "t"}, SERIES, r"is a ndarray, which has no names, and its times should be 't'\. Expected a mapping"),
        ({"times": "t"}, {"tt": [1.0], "v": [[1.0, 2.0]]}, r"has no 't', only \['tt', 'v'\].*Did you mean 'tt'\?"),
        ({"times": "t"}, {"t": [1.0], "v": [1.0], "w": [2.0]}, r"arrays \['v', 'w'\] beside 't'\. Expected one, with"),
        ({"times": "t"}, {"t": [1.0], "v": [[1.0, 2.0]] * 3}, r"times of shape \(1,\) for 3 steps\. Expected one num"),
        ({"times": 0, "rate_hz": 1e6}, np.c_[SECONDS * 1e9, SERIES], r"lasts 3e\+09 seconds: .* steps at 1e\+06 Hz.*"),
        ({"max_bytes": 40}, SERIES, r"."),
    ],
)
def test_says_what_is_wrong_with_a_series(options, cell, message):
    transform = SeriesTransform(2, **options)

    if options.get("max_bytes"):
        cell = saved(values=cell)
        message = r"takes 64 bytes\. Expected at most 40.*raise max_bytes"

    with pytest.raises(ValueError, match=message) as caught:
        transform(cell)
    assert len(str(caught.value)) <= 400


@pytest.mark.plain
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [1.0]}, r"got mean of shape \(1,\) for channels=2\. Expected 2 finite numbers, one a channel\. Take"),
        (
            {"std": [1.0, 2.0], "times": 0},
            r"std of shape \(2,\).*Expected 3 finite numbers, one a channel, and one for",
        ),
        ({"mean": [1.0, NAN]}, r"Expected 2 finite numbers"),
        ({"std": [1.0, 0.0]}, r"got std\[1\]=0\.0\. Expected a number above 0"),
        ({"rate_hz": 10}, r"got rate_hz=10 without times\. Expected to know when.*times=0"),
        ({"rate_hz": -1, "times": 0}, r"got rate_hz=-1\. Expected a number above 0"),
        ({"max_steps": 0}, r"got max_steps=0\. Expected a number above 0"),
        ({"gaps": "kep"}, r"got gaps='kep'\. Expected one of \['error', 'keep'\]\. Did you mean 'keep'\?"),
        ({"times": True}, r"got times=True\. Expected the number or the name of a column.*times=0 for the first"),
        ({"names": ["x"]}, r"got names=\['x'\] for channels=2\. Expected one name for each channel, all different"),
        ({"channels": 0}, r"got channels=0\. Expected a number above 0"),
    ],
)
def test_says_what_is_wrong_with_a_setting(options, message):
    with pytest.raises(ValueError, match=message):
        SeriesTransform(**{"channels": 2} | options)


@pytest.mark.plain
def test_statistics_name_the_line_of_a_cell_that_cannot_be_used(tmp_path):
    np.save(tmp_path / "a.npy", SERIES)
    np.save(tmp_path / "b.npy", SERIES[:, :1])
    (tmp_path / "t.csv").write_text("series,label\na.npy,x\n,x\nb.npy,y\n")
    (tmp_path / "gone.csv").write_text("series,label\nc.npy,x\n")
    (tmp_path / "empty.csv").write_text("series,label\n,x\n")

    with pytest.raises(
        DataError, match=r"t\.csv line 4, column 'series', 'b\.npy': .*1 channels\. Expected \(time, 2\)"
    ):
        series_statistics(read_table(tmp_path / "t.csv"), "series")
    with pytest.raises(DataError, match=r"gone\.csv line 2, column 'series', 'c\.npy': no such file.*Mend or empty"):
        series_statistics(read_table(tmp_path / "gone.csv"), "series")
    with pytest.raises(DataError, match=r"empty\.csv: column 'series' has no series\. Expected at least one"):
        series_statistics(read_table(tmp_path / "empty.csv"), "series")
    with pytest.raises(DataError, match=r"has no column 'sries'.*Did you mean 'series'"):
        series_statistics(read_table(tmp_path / "t.csv"), "sries")
    with pytest.raises(ValueError, match=r"reading=\.\.\.\): unknown keyword 'gap'\..*Did you mean 'gaps'\?"):
        series_statistics(read_table(tmp_path / "t.csv"), "series", reading={"gap": "keep"})


def test_objects_of_python_are_refused_and_never_run(tmp_path):
    class Canary:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "bad.npy"
    np.save(path, np.array([Canary()], dtype=object), allow_pickle=True)

    with pytest.raises(ValueError, match="Python objects"):
        SeriesTransform(1)(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.plain
def test_channels_are_counted():
    with pytest.raises(TypeError, match="SeriesTransform got channels=2.5"):
        SeriesTransform(2.5)
