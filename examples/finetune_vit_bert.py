"""The classic case: fine-tune a pretrained ViT and a pretrained BERT on a table of images and texts.

    python examples/finetune_vit_bert.py posts.csv --label topic
    python examples/finetune_vit_bert.py posts.csv --label topic --vit folder/of/vit --bert folder/of/bert
    torchrun --nproc-per-node=2 examples/finetune_vit_bert.py posts.csv --label topic --resume

The table has the columns ``image`` (paths, relative to the table), ``text`` and the label; empty cells are absent
modalities and unknown labels. It is split at random into rows for training, for choosing the epoch and for the final
report. Pretrained weights learn at a small rate, new ones at a twenty times larger one. With ``--resume`` a run that
was stopped goes on where it was, also on another number of processes; where there is none, it begins one.
"""

import argparse
from pathlib import Path

from mmfuse import MultimodalModel, dims_of, save
from mmfuse.data import load_batches, read_table
from mmfuse.distributed import is_main
from mmfuse.encoders import TextEncoder, ViTEncoder
from mmfuse.evaluation import evaluate, predict, write_rows
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification
from mmfuse.training import fit, seed_everything


def main() -> None:
    options = parse_options()
    seed_everything(options.seed)

    table = read_table(options.table, columns={"label": options.label} if options.label != "label" else None)
    train, validation, test = table.split(0.8, 0.1, 0.1, seed=options.seed)

    freeze = {"freeze": int(options.freeze) if options.freeze.isdigit() else options.freeze}
    encoders = {
        "image": ViTEncoder.from_pretrained(options.vit, **freeze),
        "text": TextEncoder.from_pretrained(options.bert, **freeze),
    }
    fusion = FUSIONS[options.fusion](dims_of(encoders), options.dim)
    model = MultimodalModel(encoders, fusion, {"label": Classification(options.dim, train.classes("label"))})

    how = {"batch_size": options.batch_size, "workers": options.workers, "on_error": "absent"}
    history = fit(
        model,
        load_batches(train, model, train=True, seed=options.seed, **how),
        load_batches(validation, model, **how),
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        pretrained_learning_rate=options.learning_rate / 20,
        strategy=options.strategy,
        folder=options.out / "checkpoints",
        resume=options.resume,
        seed=options.seed,
    )
    report = evaluate(model, load_batches(test, model, **how))
    answers = predict(model, load_batches(test, model, **how))
    save(model, options.out / "model")
    if is_main():  # under torchrun all processes come here, with the same report and the same answers
        print(f"Best epoch: {history.best_epoch} of {len(history.epochs)}.\n\nRows that had no part in training:")
        print(report)
        write_rows(answers, options.out / "answers.csv")
        history.save(options.out / "history.json")
        print(f"Saved to {options.out}: model, answers.csv, history.json, checkpoints.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="a .csv or .jsonl file")
    parser.add_argument("--label", default="label", help="the column of the label")
    parser.add_argument("--vit", default="google/vit-base-patch16-224-in21k", help="hub name or local folder")
    parser.add_argument("--bert", default="google-bert/bert-base-uncased", help="hub name or local folder")
    parser.add_argument("--fusion", choices=sorted(FUSIONS), default="CrossAttention")
    parser.add_argument("--dim", type=int, default=256, help="width of the fused vector")
    parser.add_argument("--freeze", default="none", help="'none', 'all', or how many lower layers are not trained")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16, help="of each process")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of new weights")
    parser.add_argument("--workers", type=int, default=2, help="processes that read files")
    parser.add_argument("--strategy", choices=["auto", "ddp", "fsdp"], default="auto", help="of several processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/finetune_vit_bert"))
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
