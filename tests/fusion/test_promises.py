"""What every method of FUSIONS has in common; the promises of each are checked in a file of its own."""

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch

import mmfuse.fusion
from mmfuse import MultimodalModel, load, save
from mmfuse.encoders import FeatureEncoder
from mmfuse.fusion import FUSIONS, Concat, CrossAttention
from mmfuse.tasks import Classification
from mmfuse.testing import DIMS, random_features

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(mmfuse.fusion.__file__).parent
ANY_NUMBER = [name for name, method in FUSIONS.items() if not hasattr(method, "num_modalities")]
OF_TWO = [name for name in FUSIONS if name not in ANY_NUMBER]
WITH_HEADS = [name for name, method in FUSIONS.items() if "num_heads" in inspect.signature(method).parameters]


def dims_for(name):
    """Three modalities, or two for the methods of two."""
    return DIMS if name in ANY_NUMBER else dict(list(DIMS.items())[:2])


@pytest.mark.parametrize("name", ANY_NUMBER)
def test_a_single_modality_goes_through_the_same_interface(name):
    features = {"text": random_features()["text"]}
    fusion = FUSIONS[name]({"text": DIMS["text"]}, 8).double()

    fused = fusion(features)
    (fused.features.pooled.sum() + sum(fused.penalties.values())).backward()

    assert fused.features.pooled.shape == (6, 8)
    assert torch.equal(fused.features.present, features["text"].present)
    assert [n for n, parameter in fusion.named_parameters() if parameter.grad is None] == []
    for weight in fused.weights.values():
        torch.testing.assert_close(weight, features["text"].present.double())


@pytest.mark.plain
@pytest.mark.parametrize("name", OF_TWO)
@pytest.mark.parametrize("dims", [{"text": 6}, DIMS], ids=["one", "three"])
def test_a_method_of_two_refuses_another_number(name, dims):
    with pytest.raises(ValueError, match=f"{name} got {len(dims)} modalities.*Expected exactly two.*Use "):
        FUSIONS[name](dims, 8)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_model_with_it_is_saved_and_loaded(name, tmp_path):
    dims = dims_for(name)
    encoders = {modality: FeatureEncoder(dim) for modality, dim in dims.items()}
    model = MultimodalModel(encoders, FUSIONS[name](dims, 8), {"label": Classification(8, 3)}).eval()

    save(model, tmp_path / "model")
    again = load(tmp_path / "model")

    features = {n: type(x)(x.tokens.float(), x.mask, x.pooled.float()) for n, x in random_features(dims).items()}
    expected, result = model.fusion(features), again.fusion(features)
    torch.testing.assert_close(result.features.pooled, expected.features.pooled, rtol=0, atol=0)


@pytest.mark.parametrize("name", FUSIONS)
def test_it_says_what_it_reads(name):
    assert FUSIONS[name].reads in ("pooled", "tokens")


@pytest.mark.parametrize("name", FUSIONS)
def test_it_cannot_be_built_of_nothing(name):
    with pytest.raises(ValueError, match=f"{name} got no modalities. Expected dims such as"):
        FUSIONS[name]({}, 8)


@pytest.mark.plain
@pytest.mark.parametrize("name", FUSIONS)
def test_it_says_which_modality_is_missing(name):
    fusion, features = FUSIONS[name](dims_for(name), 8).double(), random_features(dims_for(name))
    del features["audio"]

    with pytest.raises(ValueError, match=r"The fusion got no \['audio'\], only \[.*\]. Expected .* mask of False."):
        fusion(features)


@pytest.mark.plain
@pytest.mark.parametrize("name", FUSIONS)
def test_it_cannot_be_built_of_names_without_widths(name):
    with pytest.raises(TypeError, match=rf"{name} got dims=\['text', 'audio'\]. Expected the width.*Use dims_of"):
        FUSIONS[name](["text", "audio"], 8)


@pytest.mark.plain
@pytest.mark.parametrize("name", WITH_HEADS)
def test_it_refuses_heads_that_cannot_share_its_width(name):
    with pytest.raises(ValueError, match=f"{name} cannot split dim=10 into num_heads=3 equal heads.*Choose dim=12"):
        FUSIONS[name](dims_for(name), 10, num_heads=3)
    with pytest.raises(ValueError, match=f"{name} got num_heads=0. Expected a number above 0."):
        FUSIONS[name](dims_for(name), 10, num_heads=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Concat({"text": 0}, 8), "Concat got text=0. Expected a number above 0."),
        (lambda: Concat({"values": 4}, 8), "A modality cannot be named 'values', because nn.ModuleDict has that name"),
        (
            lambda: CrossAttention({"text": 4, "audio": 4}, 10),
            "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12",
        ),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.plain
def test_every_method_is_in_the_dict_and_has_its_test_and_its_plain_form():
    for path in FOLDER.glob("[!_]*.py"):
        classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        methods = {c.name for c in classes if any(ast.unparse(d) == "recorded" for d in c.decorator_list)}
        assert methods
        assert methods - {"Nested"} <= set(FUSIONS), path.name
        assert (ROOT / "tests" / "fusion" / f"test_{path.name}").exists()
        assert (ROOT / "benchmarks" / "plain" / path.name).exists() or methods == {"Nested"}


@pytest.mark.plain
def test_the_catalogue_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("make_fusion_page", ROOT / "docs" / "make_fusion_page.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    page = script.page()

    assert (ROOT / "docs" / "fusion.md").read_text() == page, "run python docs/make_fusion_page.py"
    assert all(f"## {name}\n" in page for name in FUSIONS)
    assert sys.modules.get("make_fusion_page") is None
