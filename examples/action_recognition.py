"""Depth video and a motion sensor at the wrist -> which of 27 actions somebody does.

    python examples/action_recognition.py --data FOLDER               # train, compare, ask
    python examples/action_recognition.py --data FOLDER --skeleton    # with the joints as a third modality
    python examples/action_recognition.py --data FOLDER --choose 7    # how settings are compared

FOLDER holds UTD-MHAD (Chen, Jafari, Kehtarnavaz, ICIP 2015) as ``utd_mhad.npz`` and ``depth_16x60x80.npz``: 861
recordings of eight people. People 1, 3, 5 and 7 train, the others are tested, as in the paper.

Each encoder first learns alone; every fusion starts from copies of these. All train for a fixed number of epochs, and
what the last one leaves is tested: no person of the test chooses an epoch. Encoders and settings were compared on the
four splits of ``--choose``, where one of the training people is tested and the others train. One person is few: the
same encoder of series reaches 68 to 79 %, by person.
"""

import argparse
import copy
import json
import time
from pathlib import Path

from action_recognition_data import PUBLISHED, read_recordings
from torch import nn

from mmfuse import MultimodalModel, dims_of, load, save
from mmfuse.data import Table, load_batches, pixel_statistics, series_statistics
from mmfuse.data.transforms import Augment, Crop, Jitter, Scaling
from mmfuse.encoders import CNNEncoder, TemporalConvEncoder, VideoEncoder
from mmfuse.evaluation import evaluate, predict
from mmfuse.fusion import FUSIONS
from mmfuse.missing import ModalityDropout
from mmfuse.tasks import Classification
from mmfuse.training import fit, seed_everything

TRAIN, TEST = (1, 3, 5, 7), (2, 4, 6, 8)
DIM = 128  # of the fused vector
EPOCHS = {"depth": 24, "inertial": 40, "skeleton": 40, "fusion": 10}
RATES = {"depth": 2e-3, "inertial": 2e-3, "skeleton": 2e-3, "fusion": 1e-3}
COMPARED = ("Concat", "WeightedAverage", "SoftmaxGatedFusion")  # --fusions takes others; the first one is saved


def main() -> None:
    options = parse_options()
    table = read_recordings(options.data)
    train, test = split_people(table, choose=options.choose)
    print(f"{len(train)} recordings to train, {len(test)} of other people to test", flush=True)
    sees = ("depth", "inertial", "skeleton") if options.skeleton else ("depth", "inertial")
    alone, fused, runs = {}, {}, []
    for name in sees:
        seed_everything(options.seed)
        alone[name], run = train_one({name: make_encoder(name, train)}, "Concat", train, test, options)
        runs.append(run)
    for name in options.fusions or (COMPARED[:1] if options.quick else COMPARED):
        encoders = {modality: as_pretrained(alone[modality].encoders[modality]) for modality in sees}
        fused[name], run = train_one(encoders, name, train, test, options)
        runs.append(run)
    print_table(runs if options.choose else [*runs, *PUBLISHED])
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")

    first = next(iter(fused))
    save(fused[first], options.folder / "model")
    print(f"\nSaved {first} to {options.folder / 'model'}; loaded again, and asked about one recording of the test:")
    ask(options.folder / "model", test.take([len(test) // 2]))


def split_people(table: Table, *, choose: int | None) -> tuple[Table, Table]:
    """The recordings to train and to test; nobody is in both."""
    if choose:
        return table.where("subject", lambda who: who in TRAIN and who != choose), table.where("subject", choose)
    return table.where("subject", lambda who: who in TRAIN), table.where("subject", lambda who: who in TEST)


def make_encoder(name: str, train: Table) -> nn.Module:
    """A small encoder with random weights; what it knows of the data is measured on the training people."""
    if name == "depth":
        frames = CNNEncoder.preset(
            "plain", size=32, stages=[[16, 1], [32, 1], [64, 1]], **pixel_statistics(train, name)
        )
        return VideoEncoder(frames, num_frames=16, num_layers=1, dropout=0.3)
    return TemporalConvEncoder(64, **series_statistics(train, name), num_layers=3, kernel=5, downsample=4, dropout=0.3)


def as_pretrained(encoder: nn.Module) -> nn.Module:
    """A copy with its weights, of which ``fit`` trains the backbone at a tenth of the rate of new ones."""
    encoder = copy.deepcopy(encoder)
    encoder.pretrained = True
    return encoder


def changed_at_random(model: MultimodalModel) -> dict[str, Augment]:
    """How other people would do the same: with more or less force, other starts and ends."""
    series = {name: encoder.transform(train=True) for name, encoder in model.encoders.items() if name != "depth"}
    return {
        name: Augment(transform, [Crop(0.9), Scaling(0.1, transform.channels), Jitter(0.05, transform.channels)])
        for name, transform in series.items()
    }


def train_one(
    encoders: dict, fusion: str, train: Table, test: Table, options: argparse.Namespace
) -> tuple[MultimodalModel, dict]:
    """Train a model, and say how it does on other people, also without each of its modalities."""
    seed_everything(options.seed)
    (alone, *others) = encoders
    model = MultimodalModel(
        encoders,
        FUSIONS[fusion](dims_of(encoders), DIM),
        {"action": Classification(DIM, train.classes("action"))},
        missing=ModalityDropout(0.2) if others else None,  # learns to answer from any of them, too
    )
    plan, began = "fusion" if others else alone, time.perf_counter()
    fit(
        model,
        load_batches(train, model, train=True, transforms=changed_at_random(model)),
        epochs=options.epochs or EPOCHS[plan],
        learning_rate=RATES[plan],
        weight_decay=0.05,
        seed=options.seed,
        progress=False,
    )
    batches = load_batches(test, model)
    without = {name: accuracy(model, batches, hide=[name]) for name in encoders if others}
    run = {
        "model": fusion if others else f"only {alone}",
        "sees": list(encoders),
        "accuracy": accuracy(model, batches),
        "without": without,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(f"{run['model']:36} {run['accuracy']:6.1%} after {run['seconds']:.0f} s", flush=True)
    return model, run


def accuracy(model: MultimodalModel, batches: object, **how: object) -> float:
    return evaluate(model, batches, **how).numbers["action/accuracy"]


def print_table(runs: list[dict]) -> None:
    """Ours and the known ones, by what they see."""
    print(f"\n{'model':36} {'sees':26} {'accuracy':>8} {'parameters':>10} {'seconds':>7}   accuracy without")
    for run in sorted(runs, key=lambda run: (-len(run["sees"]), sorted(run["sees"]), -run["accuracy"])):
        cost = f"{run['parameters']:10,} {run['seconds']:7.0f}" if "seconds" in run else f"{'known':>10} {'':7}"
        without = "  ".join(f"{name} {share:.1%}" for name, share in run.get("without", {}).items())
        print(f"{run['model']:36} {', '.join(run['sees']):26} {run['accuracy']:8.1%} {cost}   {without}".rstrip())


def ask(folder: Path, recording: Table) -> None:
    """Ask the saved model about one recording: all of it, and each modality by itself."""
    model = load(folder)
    names = list(model.encoders)
    for seen in [names, *([name] for name in names)]:
        hidden = [name for name in names if name not in seen]
        (answer,) = predict(model, load_batches(recording, model), hide=hidden)
        print(
            f"{' and '.join(seen):36} -> {answer['action_predicted']} ({answer['action_probability']:.0%} sure; "
            f"right: {answer['action']})"
        )


def names_of_fusions(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FUSIONS]:
        raise argparse.ArgumentTypeError(f"there is no fusion {unknown[0]}. Expected some of {', '.join(FUSIONS)}.")
    return names


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where UTD-MHAD is")
    parser.add_argument("--folder", type=Path, default=Path("runs/action_recognition"), help="where the model is saved")
    parser.add_argument("--skeleton", action="store_true", help="with the joints as a third modality")
    parser.add_argument(
        "--fusions", type=names_of_fusions, metavar="A,B", help="compare these of mmfuse.fusion.FUSIONS"
    )
    parser.add_argument(
        "--choose", type=int, choices=TRAIN, metavar="PERSON", help="test on this one of the training people instead"
    )
    parser.add_argument("--epochs", type=int, help="of every training, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="six epochs and one fusion, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write our rows for machines, too")
    options = parser.parse_args()
    if options.quick and options.epochs is None:
        options.epochs = 6
    return options


if __name__ == "__main__":
    main()
