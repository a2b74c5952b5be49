"""Saved models: whole, equal to the bit, and safe to open."""

import json
import pickle
import random
import subprocess
import sys

import pytest
import torch
from hostile import Canary
from tiny_data import make_model, write_rows
from torch import nn

import mmfuse
from mmfuse import Features, Fused, MultimodalModel, dims_of, recorded
from mmfuse._files import CorruptCheckpointError, UnsafeFileError, hash_file, read_tensors
from mmfuse.data import load_batches, read_table
from mmfuse.encoders import CNNEncoder, SpeechEncoder
from mmfuse.evaluation import predict
from mmfuse.fusion import FUSIONS, Concat, WeightedAverage
from mmfuse.persistence.manifest import write_manifest
from mmfuse.tasks import MultiLabel
from mmfuse.training import fit


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if not hasattr(FUSIONS[name], "num_modalities")])
def test_a_saved_model_comes_back_to_the_bit(tmp_path, fusion):
    table = read_table(write_rows(tmp_path))
    model = make_model(fusion=fusion)
    fit(model, load_batches(table, model, train=True), epochs=1, progress=False)

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model")

    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert predict(loaded, load_batches(table, loaded)) == predict(model, load_batches(table, model))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "MANIFEST.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizers",
    ]


def test_other_encoders_and_tasks_come_back_too(tmp_path):
    encoders = {"image": CNNEncoder.preset("tiny"), "audio": SpeechEncoder.preset("tiny", freeze=1)}
    fusion = WeightedAverage(dims_of(encoders), 8, weights={"image": 1.0, "audio": 2.0})
    model = MultimodalModel(encoders, fusion, {"tags": MultiLabel(8, ["a", "b"], threshold=0.3)})

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model")

    assert loaded.tasks["tags"].threshold == 0.3
    assert loaded.tasks["tags"].classes == ["a", "b"]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == frozen
    assert loaded.encoders["audio"].pretrained
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


PREDICT = """
import sys
sys.addaudithook(lambda event, args: sys.exit(f"{event} {args}") if event == "socket.connect" else None)
import mmfuse
from mmfuse.data import load_batches, read_table
from mmfuse.evaluation import predict, write_rows
model = mmfuse.load(sys.argv[1])
write_rows(predict(model, load_batches(read_table(sys.argv[2]), model)), sys.argv[3])
"""


def test_a_new_process_predicts_a_new_table_with_nothing_but_the_folder(tmp_path):
    model = make_model().eval()
    mmfuse.save(model, tmp_path / "model")
    table = write_rows(tmp_path)
    unlabelled = tmp_path / "new.csv"
    unlabelled.write_text("\n".join(line.rsplit(",", 2)[0] for line in table.read_text().splitlines()) + "\n")

    subprocess.run(
        [sys.executable, "-c", PREDICT, tmp_path / "model", unlabelled, tmp_path / "answers.csv"], check=True
    )

    answers = read_table(tmp_path / "answers.csv")
    expected = predict(model, load_batches(read_table(unlabelled), model))
    assert answers.column("kind_predicted") == [row["kind_predicted"] for row in expected]
    for column in ("kind_probability", "kind_p(kind1)", "size_predicted"):
        found = [float(cell) for cell in answers.column(column)]
        assert found == pytest.approx([row[column] for row in expected], rel=1e-5, abs=1e-6)


@recorded
class Mine(nn.Module):
    """A fusion of a user's own."""

    def __init__(self, dims, dim, *, bias=True):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(width, dim, bias=bias) for name, width in dims.items()})

    def forward(self, features):
        inputs = {name: features[name].zeroed() for name in self.project}
        present = torch.stack([x.present for x in inputs.values()]).any(dim=0)
        return Fused(Features.from_pooled(sum(self.project[n](x.pooled) for n, x in inputs.items()), present))


class Forgetful(Mine):
    """Not recorded."""


@pytest.mark.plain
def test_a_class_of_ones_own_is_saved_and_asked_for_by_name(tmp_path):
    model = make_model()
    model.fusion = Mine(dims_of(model.encoders), 32, bias=False)
    mmfuse.save(model, tmp_path / "model")

    loaded = mmfuse.load(tmp_path / "model", classes={"Mine": Mine})

    assert loaded.fusion.project["text"].bias is None
    with pytest.raises(ValueError, match=r"asks for a class 'Mine' that is not known.* classes={'Mine': Mine}"):
        mmfuse.load(tmp_path / "model")


def test_what_a_process_left_that_was_killed_while_it_saved_goes_with_the_next_save(tmp_path):
    for left in (".model.new-1", ".model.old-1", ".other.new-1"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.safetensors").write_bytes(b"")

    mmfuse.save(make_model(), tmp_path / "model")

    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.new-1", "model"]


def test_a_link_to_a_saved_model_stays_a_link(tmp_path):
    mmfuse.save(make_model(), tmp_path / "model")
    (tmp_path / "newest").symlink_to(tmp_path / "model")
    model = make_model(seed=1)

    mmfuse.save(model, tmp_path / "newest")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "newest"]
    assert (tmp_path / "newest").is_symlink()
    weight = "fusion.mix.0.weight"
    assert torch.equal(mmfuse.load(tmp_path / "model").state_dict()[weight], model.state_dict()[weight])


@recorded
class Free(Mine):
    """A fusion with keywords that it does not name."""

    def __init__(self, dims, dim, **options):
        super().__init__(dims, dim, **options)
        self.options = options


@recorded
class Listed(nn.Module):
    """A class with arguments that have no names."""

    def __init__(self, *sizes):
        super().__init__()


@pytest.mark.plain
def test_keywords_without_a_place_come_back_and_arguments_without_a_name_are_refused(tmp_path):
    model = make_model()
    model.fusion = Free(dims_of(model.encoders), 32, bias=False)
    mmfuse.save(model, tmp_path / "model")

    loaded = mmfuse.load(tmp_path / "model", classes={"Free": Free})

    assert loaded.fusion.options == {"bias": False}
    with pytest.raises(TypeError, match=r"@recorded cannot keep \*sizes of Listed. Expected .* Take one list instead"):
        Listed(3, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_another_precision_comes_back_in_it(tmp_path, dtype):
    model = make_model().to(dtype)
    mmfuse.save(model, tmp_path / "model")

    loaded = mmfuse.load(tmp_path / "model")

    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.plain
def test_a_model_round_or_below_the_model_is_not_saved_as_if_it_were_one(tmp_path):
    class Below(MultimodalModel):
        pass

    model = make_model()
    below = Below(dict(model.encoders), model.fusion, dict(model.tasks))

    for wrong in (below, torch.compile(model, backend="eager"), nn.Sequential(model)):
        with pytest.raises(TypeError, match=f"save got a {type(wrong).__name__}. Expected a MultimodalModel itself"):
            mmfuse.save(wrong, tmp_path / "model")


@pytest.mark.plain
def test_what_cannot_be_saved_is_refused_and_nothing_is_lost(tmp_path):
    model = make_model()
    mmfuse.save(model, tmp_path / "model")
    before = (tmp_path / "model" / "config.json").read_bytes()

    model.fusion = Forgetful(dims_of(model.encoders), 32)
    with pytest.raises(TypeError, match="Forgetful does not remember how it was built. Expected .* @mmfuse.recorded"):
        mmfuse.save(model, tmp_path / "model")
    model.fusion = Mine(dims_of(model.encoders), 32, bias=torch.tensor(True))
    with pytest.raises(TypeError, match="model.fusion.bias is a Tensor, which JSON cannot hold"):
        mmfuse.save(model, tmp_path / "model")
    model.fusion = Mine(dims_of(model.encoders), 32, bias=float("nan"))
    with pytest.raises(TypeError, match=r"model.fusion.bias is a float \(nan\), which JSON cannot hold"):
        mmfuse.save(model, tmp_path / "model")
    model.fusion = Mine(dims_of(model.encoders), 32, bias={"$class": "os.system"})
    with pytest.raises(TypeError, match=r"model.fusion.bias has the names \['\$class'\]. Expected names without '\$'"):
        mmfuse.save(model, tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("...")
    with pytest.raises(FileExistsError, match="holds something that is not a saved model. Expected a new folder"):
        mmfuse.save(make_model(), tmp_path / "other")

    assert (tmp_path / "model" / "config.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]
    mmfuse.save(make_model(seed=1), tmp_path / "model")  # a model may be replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def sign(folder):
    """Write the manifest anew, as one can who means harm."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("MANIFEST.json", "README.md")]
    write_manifest(folder, {path.relative_to(folder).as_posix(): hash_file(path) for path in files}, version=2)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json in .* cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json in .* cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list. Expected a JSON object. Copy"),
        (lambda f: edit(f, lambda c: c.update(model=7)), "describes a int. Expected a MultimodalModel. Use another"),
        (
            lambda f: edit(f, lambda c: c.update(version=99)),
            "version 99. Expected a model saved by mmfuse with version 2 at most",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors in .* cannot be read"),
        (lambda f: edit(f, lambda c: c["model"]["arguments"]["fusion"].update({"$class": "os.system"})), "'os.system'"),
        (
            lambda f: edit(f, lambda c: c["model"]["arguments"]["fusion"].update({"$class": "Concta"})),
            "asks for a class 'Concta' that is not known.* Did you mean 'Concat'",
        ),
        (
            lambda f: edit(f, lambda c: c["model"]["arguments"]["fusion"]["arguments"].update(depth=3)),
            r"calls Concat with \['depth', 'dim', 'dims'\], but .*depth",
        ),
        (
            lambda f: edit(f, lambda c: c["model"]["arguments"]["fusion"]["arguments"].update(dim=16)),
            "was built for vectors of 32, but Concat makes 16",
        ),
        (
            lambda f: edit(f, lambda c: c["model"]["arguments"]["tasks"]["size"].update({"$class": "Classification"})),
            "calls Classification with",
        ),
    ],
)
def test_a_folder_that_is_broken_or_hostile_is_refused(tmp_path, spoil, message):
    mmfuse.save(make_model(), tmp_path / "model")
    spoil(tmp_path / "model")
    sign(tmp_path / "model")

    with pytest.raises(ValueError, match=message):
        mmfuse.load(tmp_path / "model")


@pytest.mark.plain
def test_a_tokenizer_outside_the_folder_is_not_read(tmp_path):
    mmfuse.save(make_model(), tmp_path / "model")
    edit(
        tmp_path / "model",
        lambda c: c["model"]["arguments"]["encoders"]["text"]["arguments"].update(tokenizer={"$tokenizer": "../../x"}),
    )
    sign(tmp_path / "model")

    with pytest.raises(ValueError, match=r"has no tokenizer '../../x'"):
        mmfuse.load(tmp_path / "model")


def test_recording_does_not_reach_into_subclasses_and_keeps_the_signature():
    fusion = Concat({"a": 2}, 4, dropout=0.1)

    from mmfuse._record import arguments_of

    assert arguments_of(fusion) == {"dims": {"a": 2}, "dim": 4, "dropout": 0.1}
    with pytest.raises(TypeError, match="does not remember how it was built"):
        arguments_of(Forgetful({"a": 2}, 4))


FILES = ["MANIFEST.json", "config.json", "model.safetensors", "tokenizers/encoders-text-tokenizer/tokenizer.json"]


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A folder that tests put back as it was."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    mmfuse.save(make_model(), folder)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_a_saved_model_is_found(saved_model, name):
    path, choose = saved_model / name, random.Random(name)
    whole = path.read_bytes()
    for _ in range(20):
        spoiled = bytearray(whole)
        spoiled[choose.randrange(len(whole))] ^= 1 << choose.randrange(8)
        path.write_bytes(spoiled)
        with pytest.raises(CorruptCheckpointError, match=f"{path.name} in .* (has sha256|cannot be read)"):
            mmfuse.load(saved_model)
    path.write_bytes(whole)
    mmfuse.load(saved_model)


@pytest.mark.plain
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_saved_model_that_was_cut_lost_or_exchanged_is_named(saved_model, name):
    path = saved_model / name
    whole = path.read_bytes()
    other = saved_model / ("config.json" if name != "config.json" else "MANIFEST.json")
    for spoiled in (whole[:-1], b"", bytes(len(whole)), other.read_bytes(), None):
        path.unlink()
        if spoiled is not None:
            path.write_bytes(spoiled)
        with pytest.raises(CorruptCheckpointError, match=f"{path.name} in .* (has|cannot be read|is not there)"):
            mmfuse.load(saved_model)
        path.write_bytes(whole)


@pytest.mark.plain
def test_a_config_that_its_owner_changed_is_read_without_verifying(tmp_path):
    mmfuse.save(make_model(), tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["model"]["arguments"]["fusion"]["arguments"].update(dropout=0.5))

    with pytest.raises(CorruptCheckpointError, match="config.json in .* if you changed it yourself, pass verify=False"):
        mmfuse.load(tmp_path / "model")
    assert mmfuse.load(tmp_path / "model", verify=False)


def test_a_model_of_the_version_without_a_manifest_is_read(tmp_path):
    model = make_model()
    mmfuse.save(model, tmp_path / "model")
    (tmp_path / "model" / "MANIFEST.json").unlink()
    edit(tmp_path / "model", lambda config: config.update(version=1))

    loaded = mmfuse.load(tmp_path / "model")

    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.plain
def test_weights_that_are_not_numbers_are_refused(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.fusion.mix[0].weight[0, 0] = float("nan")
    mmfuse.save(model, tmp_path / "model")

    with pytest.raises(ValueError, match=r"has NaN in \['fusion.mix.0.weight'\]. Expected numbers"):
        mmfuse.load(tmp_path / "model")
    assert mmfuse.load(tmp_path / "model", verify=False).fusion.mix[0].weight.isnan().any()


@pytest.mark.plain
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES[1:3])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "torch"])
def test_a_pickle_in_a_saved_model_is_never_opened(tmp_path, name, protocol, verify):
    mmfuse.save(make_model(), tmp_path / "model")
    canary, path = Canary(tmp_path / "canary"), tmp_path / "model" / name
    if protocol == "torch":
        torch.save(canary, path)
    else:
        path.write_bytes(pickle.dumps(canary, protocol=protocol))
    sign(tmp_path / "model")

    # The two oldest protocols begin as any text may: they are no JSON and no safetensors.
    expected = CorruptCheckpointError if protocol in (0, 1) else UnsafeFileError
    with pytest.raises(expected, match="cannot be read" if protocol in (0, 1) else "is a pickle file"):
        mmfuse.load(tmp_path / "model", verify=verify)

    assert not (tmp_path / "canary").exists()


def header(text, data=b"", length=None):
    """A safetensors file with this header."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.plain
@pytest.mark.parametrize(
    "content",
    [
        header(b"{}", length=1 << 60),
        header({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        header({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
        header({"a": entry(0, 4, shape=(1 << 40,))}, bytes(4)),
        header({"a": entry(0, 4, shape=(1 << 62, 4))}, bytes(4)),
        header({"a": entry(0, 4)}, bytes(8)),
        header({"a": entry(4, 0)}, bytes(4)),
        header({"a": entry(0, 4, dtype="object")}, bytes(4)),
        header(b"[" * 100_000),
    ],
    ids=["length", "overlap", "hole", "shape", "overflow", "trailing", "backwards", "dtype", "deep"],
)
def test_a_hostile_file_of_weights_is_refused(saved_model, tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(CorruptCheckpointError, match="model.safetensors in .* cannot be read"):
        read_tensors(tmp_path / "model.safetensors")


@pytest.mark.plain
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "mmfuse", "version": NaN}', "JSON has no NaN"),
        ('{"format": "mmfuse", "x": -Infinity}', "JSON has no -Infinity"),
        ('{"format": "other", "format": "mmfuse"}', r"a key stands twice among \['format', 'format'\]"),
        ('{"format": ' + "[" * 100_000, "recursion"),
    ],
)
def test_json_that_is_not_strict_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(CorruptCheckpointError, match=f"config.json in .* cannot be read: .*{message}"):
        mmfuse.load(tmp_path)


@recorded
class Deep(Mine):
    """As many layers as asked for."""

    def __init__(self, dims, dim, *, depth=1, width=1):
        super().__init__(dims, dim)
        self.layers = nn.ModuleList(nn.Linear(width, 1) for _ in range(depth))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("more", "what"), [({"depth": 10**9}, "modules"), ({"width": 10**9}, "parameters"), ({"depth": 5}, None)]
)
def test_a_config_that_asks_for_far_more_than_its_weights_is_refused_before_it_is_built(tmp_path, more, what):
    model = make_model()
    model.fusion = Deep(dims_of(model.encoders), 32)
    mmfuse.save(model, tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["model"]["arguments"]["fusion"]["arguments"].update(more))
    sign(tmp_path / "model")

    message = f"The config asks for many more {what} than model.safetensors" if what else "does not fit: it lacks"
    with pytest.raises(ValueError, match=message):
        mmfuse.load(tmp_path / "model", classes={"Deep": Deep})
    nn.Linear(10, 10)  # the limit is gone
