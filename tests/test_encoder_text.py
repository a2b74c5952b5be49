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


PAIRS = [("a red cup", "the blue plate"), ("the plate left of a cup", "a cup"), ("a small plate", None), ("a cup", "")]


def pairs_of(transform, pairs=PAIRS, padded=0):
    """Ids of pairs as the loader makes them; what is padded holds an id that no model knows."""
    ids, _ = transform.batch([{"premise": a, "hypothesis": b} for a, b in pairs])
    time = max(map(len, ids)) + padded
    values = torch.stack([torch.nn.functional.pad(x, (0, time - len(x)), value=10_000) for x in ids])
    mask = torch.arange(time) < torch.tensor([[len(x)] for x in ids])
    return Input(values, torch.ones(len(ids), dtype=torch.bool), mask)


@pytest.mark.parametrize("family", TEXT_MODELS)
def test_pairs_give_the_same_tokens_as_in_transformers(family, tmp_path, tokenizer):
    theirs = save(family, tmp_path, tokenizer)
    encoder = TextEncoder.from_pretrained(tmp_path, columns=["premise", "hypothesis"]).eval()
    transform = encoder.transform()

    features = encoder(pairs_of(transform, padded=3))

    assert transform.columns == ("premise", "hypothesis")
    types = (getattr(theirs.config, "type_vocab_size", None) or 0) > 1
    assert types == (family in ("bert", "electra", "roberta"))
    for i, (first, second) in enumerate(PAIRS):
        texts = [[first]] if second is None else [[first], [second]]
        given = tokenizer(*texts, return_tensors="pt", return_token_type_ids=types)
        assert not types or given["token_type_ids"].sum() == (0 if second is None else len(second.split()) + 1)
        with torch.no_grad():
            expected = theirs(**given).last_hidden_state[0]
        torch.testing.assert_close(features.tokens[i, features.mask[i]], expected)


def test_the_second_text_is_told_from_the_first(tokenizer):
    with_types, without = (make("bert", tokenizer, columns=columns) for columns in (["premise", "hypothesis"], []))
    batch = pairs_of(with_types.transform())

    assert relative_error(with_types(batch).pooled[:2], without(batch).pooled[:2]) > 1e-3
    torch.testing.assert_close(with_types(batch).pooled[2], without(batch).pooled[2])  # one text alone


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_padding_changes_nothing_in_a_pair(family, tokenizer):
    encoder = make(family, tokenizer, columns=["premise", "hypothesis"], pool="mean")
    separate = [encoder(pairs_of(encoder.transform(), [pair])) for pair in PAIRS]

    for padded in (1, 7, 40):
        features = encoder(pairs_of(encoder.transform(), padded=padded))
        for i, expected in enumerate(separate):
            assert relative_error(features.pooled[i], expected.pooled[0]) <= 1e-5


@pytest.mark.plain
def test_pairs_compile_whole(tokenizer):
    torch._dynamo.reset()
    encoder = make("bert", tokenizer, columns=["premise", "hypothesis"])
    batch = pairs_of(encoder.transform(), padded=1)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().tokens, encoder(batch).zeroed().tokens)


def test_a_tokenizer_with_one_type_makes_one_type(tokenizer):
    from tokenizers import processors

    one_type = train_tokenizer(TEXTS, vocab_size=50, max_length=80)
    ends = [("[CLS]", one_type.cls_token_id), ("[SEP]", one_type.sep_token_id)]
    one_type.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ends
    )

    encoder = make("roberta", one_type, columns=["premise", "hypothesis"])

    assert encoder.separator is None
    ids = encoder.transform()({"premise": "a cup", "hypothesis": "a plate"})
    assert one_type.decode(ids) == "[CLS] a cup [SEP] [SEP] a plate [SEP]"


def test_one_column_of_another_name(tokenizer):
    encoder = TextEncoder.preset("tiny", tokenizer=tokenizer, max_length=16, columns=["title"])

    ids = encoder.transform()({"title": "a red cup"})

    assert tokenizer.decode(ids) == "[CLS] a red cup [SEP]"
    assert TextEncoder(**arguments_of(encoder)).columns == ("title",)


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
        ValueError,
        match=rf"ids up to {len(tokenizer) - 1} for a model with vocab_size=9: tokenizer and model do not match\.",
    ):
        TextEncoder(config | {"vocab_size": 9}, tokenizer)
    with pytest.raises(ValueError, match=r"TextEncoder got columns=\['a', 'a'\]\. Expected the name of one column, or"):
        TextEncoder(config, tokenizer, columns=["a", "a"])
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

    unseparated = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]")
    with pytest.raises(ValueError, match=r"tokenizer without separator for two columns\. Expected one that.*Set it"):
        TextEncoder({"model_type": "bert"} | BERT, unseparated, columns=["a", "b"])

    unpadded = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match=r"TextEncoder got a tokenizer without padding token.*Expected.*Set it"):
        TextEncoder({"model_type": "bert"} | BERT, unpadded)
