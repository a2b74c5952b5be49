"""The examples, run as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_data import WORDS, write_rows
from tiny_models import BERT, VIT
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from mmfuse import load
from mmfuse.data import read_table
from mmfuse.data.transforms import train_tokenizer

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.plain


def run(script, *arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
    command = [sys.executable, *launcher, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    printed = run("digit_arithmetic.py", "--quick", "--folder", folder, "--json", folder / "table.json")
    return folder, printed


def test_three_modalities_beat_each_alone_in_the_main_example(digits):
    folder, printed = digits
    table = json.loads((folder / "table.json").read_text())
    accuracy = {row["model"]: row["accuracy"] for row in table["rows"]}

    alone = [accuracy[f"only {name}"] for name in ("image", "audio", "text")]

    assert accuracy["Concat"] > max(alone) + 0.08
    assert max(alone) < 0.35
    assert accuracy["chance"] < 0.2
    assert all(accuracy["Concat"] > hidden for hidden in table["rows"][0]["hidden"].values())
    assert f"{accuracy['Concat']:.1%}" in printed


def test_the_main_example_draws_and_answers(digits):
    folder, printed = digits

    for name in ("curves", "confusion", "samples", "hidden"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 300
    assert "Asked in a new process" in printed
    assert "as a number" in printed


def test_the_main_example_can_be_asked_also_without_a_voice(digits):
    folder, _ = digits
    row = read_table(folder / "data" / "test.csv").rows[3]

    printed = run(
        "digit_arithmetic.py", "--folder", folder, "--ask", folder / "data" / row["image"], "-", "Which is larger?"
    )

    assert "audio absent" in printed
    assert "-> " in printed


def test_the_main_example_says_what_to_do_without_a_model(tmp_path):
    command = [sys.executable, str(EXAMPLES / "digit_arithmetic.py"), "--folder", str(tmp_path), "--ask", "a", "b", "c"]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode != 0
    assert "There is no trained model in" in done.stderr


def test_the_main_example_names_a_fusion_that_there_is_not(tmp_path):
    arguments = ["--folder", str(tmp_path), "--fusions", "Concat,Concatenate"]

    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "digit_arithmetic.py"), *arguments], capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "there is no fusion Concatenate. Expected some of AdaptationGate, " in done.stderr
    assert not list(tmp_path.iterdir())


def test_vit_and_bert_are_fine_tuned_from_local_folders_and_two_processes_go_on_with_it(tmp_path):
    tokenizer = train_tokenizer(WORDS, vocab_size=BERT["vocab_size"])
    tokenizer.save_pretrained(tmp_path / "bert")
    BertModel(BertConfig(**BERT)).save_pretrained(tmp_path / "bert")
    ViTModel(ViTConfig(**VIT)).save_pretrained(tmp_path / "vit")
    table = write_rows(tmp_path, rows=60)
    models = ("--vit", tmp_path / "vit", "--bert", tmp_path / "bert", "--out", tmp_path / "out")

    options = ("--label", "kind", "--dim", 32, "--workers", 0, "--learning-rate", 5e-3)
    printed = run("finetune_vit_bert.py", table, *models, *options, "--epochs", 2)
    more = ("--epochs", 4, "--resume", "--strategy", "fsdp", "--batch-size", 8)
    resumed = run("finetune_vit_bert.py", table, *models, *options, *more, processes=2)

    assert "Best epoch: " in printed
    assert resumed.count("Best epoch: ") == resumed.count("of 4.") == 1
    model = load(tmp_path / "out" / "model")
    assert model.tasks["label"].classes == ["kind0", "kind1", "kind2"]
    answers = read_table(tmp_path / "out" / "answers.csv")
    assert len(answers) == 6
    assert set(answers.column("label_predicted")) <= {"kind0", "kind1", "kind2"}
