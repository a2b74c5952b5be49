"""Language models of several families behind one encoder: padding, absence, freezing, loading, compiling."""

import pytest
import torch
from tiny_models import BERT, TEXT_MODELS, relative_error, require_finite_gradients, without_dropout

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import TextTransform, train_tokenizer
from mmfuse.encoders import TextEncoder
from mmfuse.layers.masking import masked_mean

TEXTS = ["a small red cup", "the blue plate", "the plate left of a cup"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=50, max_length=80)


def make(family, tokenizer, **options):
    torch.manual_seed(0)
    config = without_dropout({"model_type": family} | TEXT_MODELS[family])
    return TextEncoder.from_config(config, tokenizer, **options).eval()


def texts(lengths=(6, 4, 0, 2), padded=0, fill=-7):
    """Ids of these lengths; ``fill`` stands in the padding. Length 0: absent."""
    counts = torch.tensor(lengths)
    time = max(lengths) + padded
    ids = torch.randint(5, 45, (len(lengths), time), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(time) < counts[:, None]
    ids[:, 0] = 2
    return Input(ids.masked_fill(~mask, fill), counts > 0, mask)


def alone(batch, i):
    length = int(batch.mask[i].sum())
    return Input(batch.values[i : i + 1, :length], batch.present[i : i + 1])


def save(family, folder, tokenizer):
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(3)
    model = AutoModel.from_config(AutoConfig.for_model(family, **TEXT_MODELS[family])).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("family", TEXT_MODELS)
def test_padding_changes_nothing(family, pool, tokenizer):
    encoder = make(family, tokenizer, pool=pool)

    for padded in (1, 7, 50):
        batch = texts(padded=padded, fill=10_000)
        features = encoder(batch)
        for i in (0, 1, 3):
            expected = encoder(alone(batch, i))
            assert relative_error(features.tokens[i, : expected.tokens.shape[1]], expected.tokens[0]) <= 1e-5
            assert relative_error(features.pooled[i], expected.pooled[0]) <= 1e-5
        assert torch.equal(features.mask, batch.mask)


@pytest.mark.parametrize("family", TEXT_MODELS)
def test_every_parameter_learns_beside_absent_texts(family, tokenizer):
    encoder = make(family, tokenizer).train()

    features = encoder(texts(padded=3))

    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("family", TEXT_MODELS)
def test_a_batch_without_any_text_gives_finite_gradients(family, tokenizer):
    encoder = make(family, tokenizer, pool="mean").train()
    batch = texts()

    features = encoder(Input(batch.values, torch.zeros(4, dtype=torch.bool), batch.mask))

    assert not features.mask.any()
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("family", TEXT_MODELS)
def test_a_saved_model_gives_the_same_tokens_as_in_transformers(family, tmp_path, tokenizer):
    theirs = save(family, tmp_path, tokenizer)
    batch = texts(lengths=(6, 4))

    encoder = TextEncoder.from_pretrained(tmp_path).eval()

    with torch.no_grad():
        expected = theirs(input_ids=batch.values.clamp_min(0), attention_mask=batch.mask.long()).last_hidden_state
    features = encoder(batch)
    torch.testing.assert_close(features.tokens[batch.mask], expected[batch.mask])
    torch.testing.assert_close(features.pooled, expected[:, 0])
    assert encoder.pretrained
    assert encoder.tokenizer("a red cup")["input_ids"] == tokenizer("a red cup")["input_ids"]


def test_mean_pooling_reads_real_tokens_only(tokenizer):
    batch = texts(padded=2)

    features = make("bert", tokenizer, pool="mean")(batch)

    torch.testing.assert_close(features.pooled, masked_mean(features.tokens, batch.mask))


@pytest.mark.parametrize("family, longest", [("bert", 72), ("roberta", 71), ("distilbert", 72)])
def test_the_transform_cuts_at_the_longest_text_that_the_model_knows(family, longest, tokenizer):
    encoder = make(family, tokenizer)

    transform = encoder.transform(train=True)

    ids = transform("cup " * 200)
    assert isinstance(transform, TextTransform)
    assert len(ids) == longest
    assert encoder(Input(ids[None], torch.tensor([True]))).tokens.isfinite().all()
    assert encoder(Input(transform.blank()[None], torch.tensor([False]))).tokens.isfinite().all()


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "electra"])
@pytest.mark.parametrize("freeze, layers", [("all", 2), (0, 0), (1, 1)])
def test_frozen_parts_do_not_learn_and_stay_in_evaluation_mode(family, freeze, layers, tokenizer):
    encoder = make(family, tokenizer, freeze=freeze).train()

    stack = encoder.backbone.encoder.layer
    frozen = [encoder.backbone.embeddings, *stack[:layers]]

    assert not any(part.training or any(p.requires_grad for p in part.parameters()) for part in frozen)
    assert all(part.training for part in stack[layers:])
    if freeze != "all":
        require_finite_gradients(encoder, encoder(texts()))


def test_checkpointing_gives_the_same_gradients(tokenizer):
    plain, saving = make("bert", tokenizer).train(), make("bert", tokenizer, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())

    for encoder in (plain, saving):
        encoder(texts()).zeroed().tokens.square().sum().backward()

    assert all(layer.gradient_checkpointing for layer in saving.backbone.encoder.layer)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.plain
@pytest.mark.parametrize("family", TEXT_MODELS)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")  # in transformers
def test_compiles_whole(family, train, tokenizer):
    torch._dynamo.reset()
    encoder, batch = make(family, tokenizer).train(train), texts(padded=1)
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().tokens, expected.zeroed().tokens)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_works_in_half_precision(family, tokenizer):
    encoder = make(family, tokenizer, pool="mean")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(texts(padded=5))

    assert features.zeroed().pooled.isfinite().all()


def test_remembers_how_it_was_built(tokenizer):
    encoder = TextEncoder.preset("tiny", tokenizer=tokenizer, max_length=16, pool="mean")

    again = TextEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert (again.max_length, again.pool) == (16, "mean")


@pytest.mark.plain
def test_says_what_is_wrong(tmp_path, tokenizer):
    config = {"model_type": "bert"} | BERT
    with pytest.raises(ValueError, match=r"neither a folder nor a hub model.*Expected a folder.*Check the spelling"):
        TextEncoder.from_pretrained(tmp_path / "nothing")
    with pytest.raises(
        ValueError, match=rf"tokenizer with {len(tokenizer)} ids for a model with vocab_size=9.*Use the"
    ):
        TextEncoder(config | {"vocab_size": 9}, tokenizer)
    with pytest.raises(ValueError, match=r"pool='last'\. Expected one of \['first', 'mean'\]"):
        TextEncoder(config, tokenizer, pool="last")
    with pytest.raises(ValueError, match=r"deberta-v2 model with attention='sdpa'.*Use attention=None"):
        make("deberta-v2", tokenizer, attention="sdpa")
    with pytest.raises(ValueError, match=r"checkpointing=True, but MPNetModel cannot.*Use checkpointing=False"):
        TextEncoder(config | {"model_type": "mpnet"}, tokenizer, checkpointing=True)
    with pytest.raises(ValueError, match=r"freeze=-1\. Expected .* number from 0 to 2"):
        TextEncoder(config, tokenizer, freeze=-1)
    encoder = make("bert", tokenizer)
    with pytest.raises(ValueError, match=r"got 73 tokens\. Expected at most 72.*Cut the texts"):
        encoder(texts(lengths=(73,)))
    with pytest.raises(ValueError, match=r"TextEncoder input has shape \(4,\).*Expected \(batch, time\).*transform"):
        encoder(Input(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool)))


@pytest.mark.plain
def test_says_that_tokenizer_or_padding_token_are_missing(tmp_path, tokenizer):
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    BertModel(BertConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"found no tokenizer in .*Expected a tokenizer\.json.*Save the tokenizer"):
        TextEncoder.from_pretrained(tmp_path)

    unpadded = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match=r"TextEncoder got a tokenizer without padding token.*Expected.*Set it"):
        TextEncoder({"model_type": "bert"} | BERT, unpadded)
