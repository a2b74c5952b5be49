"""Several ways of handling absence, one after the other, and all of them saved."""

import pytest
import torch
from tiny_data import make_model
from torch import nn

import mmfuse
from mmfuse import Batch, Input, dims_of, recorded
from mmfuse.fusion import Concat, WeightedAverage
from mmfuse.missing import MISSING, Chain, Ensure, Imputation, ModalityDropout, Placeholder
from mmfuse.testing import DIMS, random_features
from mmfuse.testing.samples import present_anywhere


def test_hidden_modalities_get_their_placeholder():
    torch.manual_seed(0)
    placeholder = Placeholder(DIMS).double()
    chain = Chain([ModalityDropout(0.7), placeholder])
    features = random_features()

    result = chain(features)

    somewhere_learned = 0
    for name, x in result.items():
        assert torch.equal(x.present, present_anywhere(features))
        learned = (x.pooled == placeholder.pooled[name]).all(dim=1)
        somewhere_learned += int((learned & features[name].present).sum())
    assert somewhere_learned  # some that were there were hidden


def test_the_parts_run_in_their_order():
    torch.manual_seed(0)
    chain = Chain([Placeholder(DIMS).double(), ModalityDropout(0.7)])

    result = chain(random_features())

    assert not all(torch.equal(x.present, present_anywhere(random_features())) for x in result.values())


@pytest.mark.plain
def test_a_chain_of_nothing_is_refused():
    with pytest.raises(ValueError, match="Chain got no parts. Expected a list of parts"):
        Chain([])
    with pytest.raises(ValueError, match="Chain got a single ModalityDropout. Expected a list"):
        Chain(ModalityDropout(0.5))


@recorded
class Forget(nn.Module):
    """A way of a user's own: one modality is never seen."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, features):
        return {name: x for name, x in features.items() if name != self.name} | {
            self.name: mmfuse.Features.from_pooled(features[self.name].pooled, features[self.name].present & False)
        }


MISSING_SLOT = {
    "dropout": lambda dims: ModalityDropout({"text": 0.5, "audio": 0.1}),
    "placeholder": lambda dims: Placeholder(dims, num_tokens={"image": 1, "audio": 2, "text": 3}),
    "chain": lambda dims: Chain([ModalityDropout(0.3), Placeholder(dims, num_tokens=2)]),
    "own": lambda dims: Chain([Forget("audio"), Placeholder(dims)]),
}
FUSION_SLOT = {
    "zeros": lambda dims: Ensure(Concat(dims, 32)),
    "error": lambda dims: Ensure(WeightedAverage(dims, 32, weights=dict.fromkeys(dims, 1.0)), empty="error"),
    "imputation": lambda dims: Imputation(dims, Concat(dims, 32), hidden=7, weight=0.5),
    "both": lambda dims: Ensure(Imputation(dims, WeightedAverage(dims, 32))),
}


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image, audio = torch.randn(4, 3, 16, 16, generator=generator), torch.randn(4, 1600, generator=generator)
    text = torch.randint(5, 20, (4, 6), generator=generator)
    real = torch.tensor([True, True, False, True])
    return Batch(
        {
            "image": Input(image, real),
            "audio": Input(audio, real.roll(1), real.roll(1)[:, None].expand(4, 1600)),
            "text": Input(text, real.roll(2), real.roll(2)[:, None].expand(4, 6)),
        }
    )


@pytest.mark.parametrize("name", [*MISSING_SLOT, *FUSION_SLOT])
def test_comes_back_from_a_folder_to_the_bit(tmp_path, name):
    model = make_model().eval()
    dims = dims_of(model.encoders)
    if name in MISSING_SLOT:
        model.missing = MISSING_SLOT[name](dims).eval()
    else:
        model.fusion = FUSION_SLOT[name](dims).eval()

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model", classes={"Forget": Forget})

    assert {key: value.shape for key, value in loaded.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    before, after = model(batch()), loaded(batch())
    for task in before.predictions:
        assert torch.equal(before.predictions[task], after.predictions[task])
    assert str(loaded.missing) == str(model.missing)
    assert str(loaded.fusion) == str(model.fusion)


def test_the_dict_names_every_class():
    assert all(name == part.__name__ for name, part in MISSING.items())
