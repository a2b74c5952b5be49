"""Memory that runs out in a step: what the error says, and what it leaves alone."""

import gc
import weakref

import pytest
import torch
from tiny_data import make_model, write_rows
from torch import nn

from mmfuse import Batch, Features, Input, MultimodalModel, Target
from mmfuse.data import load_batches, read_table
from mmfuse.encoders import SkipAbsent, TextEncoder
from mmfuse.fusion import Concat
from mmfuse.losses import Sum
from mmfuse.tasks import Regression
from mmfuse.training import Precision, train_epoch
from mmfuse.training.memory import explain_out_of_memory, is_out_of_memory

CPU = Precision("float32", torch.device("cpu"))
GIGABYTES = 1 << 50  # 10^6 of them: no machine has so many


class Hungry(nn.Module):
    """An encoder of frames whose forward pass takes more memory than there is, in one of several ways."""

    def __init__(self, ask):
        super().__init__()
        self.dim = 4
        self.layer = nn.Linear(3, 4)
        self.ask = ask

    def forward(self, input):
        tokens = self.layer(input.zeroed().values)
        self.kept = weakref.ref(tokens)
        self.ask()
        return Features(tokens, input.mask, tokens[:, 0])


def fake():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79 GiB.\nMore of it.")


def real():
    torch.empty(GIGABYTES)


def wrong():
    torch.ones(2) @ torch.ones(3)


def make_hungry(ask):
    return MultimodalModel({"audio": Hungry(ask)}, Concat({"audio": 4}, 4), {"size": Regression(4)})


def frames(lengths):
    mask = torch.arange(max(lengths) + 2) < torch.tensor(lengths)[:, None]
    values = torch.randn(len(lengths), mask.shape[1], 3)
    known = torch.ones(len(lengths), dtype=torch.bool)
    return Batch({"audio": Input(values, known, mask)}, {"size": Target(torch.zeros(len(lengths)), known)})


def train(model, batches, **options):
    optimizer = torch.optim.AdamW(model.parameters())
    return list(train_epoch(model, batches, weigh=Sum(), optimizer=optimizer, **options))


@pytest.mark.plain
def test_the_error_says_what_was_in_the_step_and_what_to_change():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(make_hungry(fake), [frames([5, 9, 4, 7]), frames([3, 3])], accumulate=2)

    message = str(caught.value)
    assert message.startswith(
        "Step 1 ran out of memory: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79 GiB. "
        "A batch of 4 samples in float32, the longest of each modality: 'audio' 9 steps x 3."
    )
    assert "The parameters take 0.0 MB, their gradients 0.0 MB, the optimizer 0.0 MB" in message
    assert "batch_size=2 with accumulate=4, which is the same step in smaller parts" in message
    assert "a smaller limit (max_length, max_seconds or max_steps) of what is read of ['audio']" in message
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_memory_that_the_cpu_does_not_have_is_the_same_error():
    with pytest.raises(torch.OutOfMemoryError, match="Step 1 ran out of memory: .*can't allocate memory: you tried to"):
        train(make_hungry(real), [frames([5])])


def test_another_error_is_left_alone():
    with pytest.raises(RuntimeError, match="size|shape") as caught:
        train(make_hungry(wrong), [frames([5])])

    assert not is_out_of_memory(caught.value)
    assert "Step 1" not in str(caught.value)


def test_who_catches_the_error_does_not_keep_the_activations():
    model = make_hungry(fake)

    try:
        train(model, [frames([5])])
    except torch.OutOfMemoryError as error:
        kept = error
    gc.collect()

    assert model.encoders["audio"].kept() is None
    assert "ran out of memory" in str(kept)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 1"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_errors_without_a_class_of_their_own_are_known_by_what_they_say(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("no"))


def test_the_advice_fits_the_model_and_the_batch(tmp_path):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    (batch,) = load_batches(read_table(write_rows(tmp_path)), model)
    batch = Batch({**batch.inputs, "image": Input(batch.inputs["image"].values, torch.arange(12) < 8)}, batch.targets)
    gpu = Precision("float32", torch.device("cpu"))
    gpu.device = torch.device("cuda")

    message = explain_out_of_memory(RuntimeError(""), 3, model, optimizer, [batch], gpu)

    text = batch.inputs["text"].mask.sum(dim=1).max()
    assert f"'image' 3 x 16 x 16, 'audio' 2080 steps, 'text' {text} steps" in message
    assert "Step 3 ran out of memory: RuntimeError. A batch of 12 samples" in message
    order = ["precision='bf16'", "batch_size=6 with accumulate=2"]
    order += ["checkpointing=True in the encoders of ['image', 'audio', 'text']"]
    order += ["SkipAbsent(...) round the encoders of ['image']", "what is read of ['audio', 'text']", "freeze='all'"]
    places = [message.index(part) for part in order]
    assert places == sorted(places)


def test_what_is_done_already_is_not_advised(tmp_path):
    model = make_model()
    plain = model.encoders["text"]
    saving = TextEncoder(plain._recorded_arguments["config"], plain.tokenizer, checkpointing=True)
    model.encoders["text"] = SkipAbsent(saving)
    model.encoders["image"] = SkipAbsent(model.encoders["image"])
    (batch,) = load_batches(read_table(write_rows(tmp_path)), model)
    lonely = Batch(
        {
            name: Input(x.values[:1], ~x.present[:1], x.mask if x.mask is None else x.mask[:1])
            for name, x in batch.inputs.items()
        }
    )

    message = explain_out_of_memory(MemoryError(), 1, model, torch.optim.SGD(model.parameters()), [lonely], CPU)

    assert "checkpointing=True in the encoders of ['image', 'audio']," in message
    assert "batch_size=" not in message and "bf16" not in message  # one sample, on a CPU
    assert "SkipAbsent(...) round the encoders of ['audio']" in message


def test_the_memory_of_the_optimizer_is_counted_or_foreseen():
    model = make_hungry(lambda: None)
    model.encoders["audio"].layer = nn.Linear(3, 4_000_000)
    for parameter in [model.encoders["audio"].layer.bias]:
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.encoders["audio"].layer.weight] = {"momentum_buffer": torch.zeros(4_000_000, 3)}

    counted = explain_out_of_memory(MemoryError(), 1, model, optimizer, [frames([5])], CPU)
    foreseen = explain_out_of_memory(MemoryError(), 1, model, torch.optim.AdamW(model.parameters()), [frames([5])], CPU)

    assert "The parameters take 64.0 MB, their gradients 48.0 MB, the optimizer 48.0 MB;" in counted
    assert "their gradients 48.0 MB, the optimizer 96.0 MB;" in foreseen
