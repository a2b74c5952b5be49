"""MLP over a row of numbers and categories: its equation, missing and unseen cells, absent rows."""

import pytest
import torch
from tabular_columns import COLUMNS, NUMBERS

import mmfuse
from mmfuse import Input, MultimodalModel
from mmfuse._record import arguments_of
from mmfuse.data import load_batches, read_table, tabular_statistics
from mmfuse.encoders import TabularEncoder
from mmfuse.encoders._categories import CategoryEmbedding
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification


def make(name="both", **to):
    torch.manual_seed(0)
    return TabularEncoder(8, **COLUMNS[name], hidden_dim=12, dropout=0.0).to(**to)


def rows(encoder, dtype=torch.float32, fill=float("nan")):
    """Four rows with missing and unseen cells, the third one absent; ``fill`` stands where no number is."""
    numbers = torch.tensor([[1.0, -0.5], [fill, 2.0], [fill, fill], [fill, fill]])
    codes = torch.tensor([[2, 4], [0, 1], [0, 0], [3, 0]])
    kinds = encoder.transform()
    parts = ([numbers, (numbers == numbers) & (numbers < 1e3)] if kinds.numbers else []) + [codes] * bool(
        kinds.categories
    )
    values = torch.cat([part.to(dtype) for part in parts], dim=1)
    values[2] = fill
    return Input(values, torch.tensor([True, True, False, True]))


def test_a_row_equals_the_equation():
    encoder = make(dtype=torch.float64)
    weight, hidden = encoder.embed.weight, [encoder.hidden[0][0], encoder.hidden[1][0]]
    sex, ward, nothing = weight[:2], weight[2:], torch.zeros(16, dtype=torch.float64)
    cells = [  # numbers, flags of numbers and of categories, vectors
        ([1.0, -0.5], [1, 1, 1, 1], sex[0], ward[2]),
        ([0.0, 2.0], [0, 1, 0, 1], nothing, ward.mean(dim=0)),
        None,
        ([0.0, 0.0], [0, 0, 1, 0], sex[1], nothing),
    ]

    pooled = encoder(rows(encoder, torch.float64)).pooled

    for i, cell in enumerate(cells):
        if cell is not None:
            h = torch.cat([torch.tensor(cell[0] + cell[1], dtype=torch.float64), *cell[2:]])
            for layer in hidden:
                h = (layer.weight @ h + layer.bias).clamp_min(0)
            torch.testing.assert_close(pooled[i], encoder.out.weight @ h + encoder.out.bias, rtol=0, atol=1e-12)


def test_an_embedding_looks_up_missing_unseen_and_known():
    embed = CategoryEmbedding({"a": ["x", "y"], "b": ["z"]}, 4)

    vectors = embed(torch.tensor([[0, 1], [1, 2], [3, 0], [2, 2]]))

    x, y, z = embed.weight
    expected = [[0 * x, z], [(x + y) / 2, z], [y, 0 * z], [x, z]]
    torch.testing.assert_close(vectors, torch.stack([torch.stack(pair) for pair in expected]))


@pytest.mark.parametrize("name", COLUMNS)
def test_what_stands_in_an_empty_cell_is_never_read(name):
    encoder = make(name)

    features = [encoder(rows(encoder, fill=fill)).zeroed() for fill in (float("nan"), 1e4, float("inf"))]

    for got in features[1:]:
        torch.testing.assert_close(got.pooled, features[0].pooled, rtol=0, atol=0)
    assert features[0].pooled.isfinite().all()
    assert features[0].mask[:, 0].tolist() == [True, True, False, True]


@pytest.mark.parametrize("name", COLUMNS)
def test_each_row_alone_gives_its_row_of_the_batch(name):
    encoder = make(name, dtype=torch.float64)
    inputs = rows(encoder, torch.float64)

    pooled = encoder(inputs).pooled

    for i in (0, 1, 3):
        alone = encoder(Input(inputs.values[i : i + 1], inputs.present[i : i + 1])).pooled[0]
        torch.testing.assert_close(pooled[i], alone, rtol=0, atol=1e-12)


def test_a_table_goes_through_a_model_that_is_saved_and_loaded(tmp_path):
    (tmp_path / "a.csv").write_text("age,sex,note,label\n60,m,,yes\n,f,,no\n,,,no\n40,x,,yes\n")
    train = read_table(tmp_path / "a.csv")
    statistics = tabular_statistics(train, numbers=["age"], categories=["sex"])
    model = MultimodalModel(
        {"patient": TabularEncoder(8, **statistics)},
        Concat({"patient": 8}, 8),
        {"label": Classification(8, ["no", "yes"])},
    ).eval()

    batch = next(iter(load_batches(train, model, batch_size=4)))
    mmfuse.save(model, tmp_path / "model")
    again = mmfuse.load(tmp_path / "model")

    assert batch.inputs["patient"].present.tolist() == [True, True, False, True]  # absent: all of its cells are empty
    assert batch.inputs["patient"].values.tolist() == [[1, 1, 3], [0, 0, 2], [0, 0, 0], [-1, 1, 4]]
    expected = model(batch).predictions["label"]
    torch.testing.assert_close(again(batch).predictions["label"], expected, rtol=0, atol=0)
    assert arguments_of(again.encoders["patient"].transform()) == statistics


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"TabularEncoder input has shape \(4, 5\)\. Expected \(batch, width=6\)"):
        make()(Input(torch.zeros(4, 5), torch.ones(4).bool()))
    with pytest.raises(ValueError, match=r"TabularTransform got no columns"):
        TabularEncoder(8)
    with pytest.raises(ValueError, match=r"TabularEncoder got hidden_dim=0\. Expected a number above 0"):
        TabularEncoder(8, numbers=NUMBERS, hidden_dim=0)
    with pytest.raises(ValueError, match=r"TabularEncoder got dropout=-1\. Expected a share"):
        TabularEncoder(8, numbers=NUMBERS, dropout=-1)
