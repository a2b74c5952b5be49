"""A model is saved by several processes, whole or in pieces, by one of them."""

from pathlib import Path

import pytest
import torch
from processes import outcomes, run
from tiny_numbers import make_model, table_of

import mmfuse
from mmfuse.data import load_batches
from mmfuse.distributed import is_main, rank
from mmfuse.distributed import whole as module
from mmfuse.training import fit


def trained(strategy: str) -> mmfuse.MultimodalModel:
    model, table = make_model(), table_of(8)
    batches = load_batches(table, model, train=True, batch_size=2, max_errors=1.0)
    fit(model, batches, epochs=1, strategy=strategy, progress=False, device="cpu")
    return model


def save_and_load(folder: Path, strategy: str) -> dict[str, torch.Tensor]:
    model = trained(strategy)
    mmfuse.save(model, folder)
    loaded = mmfuse.load(folder).state_dict()  # at once: rank 0 has written all of it
    for name, value in model.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        torch.testing.assert_close(loaded[name], whole, rtol=0, atol=0)
    mmfuse.save(model, folder)  # in the place of the first
    return loaded


@pytest.mark.filterwarnings("ignore:.* rows have no modality at all")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_processes_save_one_model_and_each_can_load_it(tmp_path, strategy):
    first, second = run(2, save_and_load, tmp_path / "model", strategy)

    assert first.keys() == second.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def save_on_rank_0(folder: Path, strategy: str) -> None:
    model = trained(strategy)
    module._MEETING = 0.5
    if is_main():
        mmfuse.save(model, folder)
    else:
        import time

        time.sleep(3)


@pytest.mark.plain
def test_where_each_holds_a_part_saving_on_one_process_is_refused(tmp_path):
    first, _ = outcomes(2, save_on_rank_0, tmp_path / "model", "fsdp")

    assert "save needs all 2 processes: each holds a part of the weights. Call save on every process" in first.log
    assert not (tmp_path / "model").exists()


def test_where_each_holds_all_weights_saving_on_one_process_waits_for_nobody(tmp_path):
    run(2, save_on_rank_0, tmp_path / "model", "ddp")

    assert mmfuse.load(tmp_path / "model")


def save_where_rank_0_cannot(folder: Path) -> None:
    model = make_model()
    module._WRITING = 20
    mmfuse.save(model, folder / "file" / "model" if rank() == 0 else folder / "model")


@pytest.mark.plain
def test_what_rank_0_could_not_write_is_an_error_of_all(tmp_path):
    (tmp_path / "file").write_text("")

    first, second = outcomes(2, save_where_rank_0_cannot, tmp_path)

    assert [first.code, second.code] == [1, 1]
    assert "save failed on rank 0: " in str(second.error)


def save_where_rank_0_looks(folder: Path) -> None:
    mmfuse.save(make_model(), folder / ("model" if rank() == 0 else "other"))


@pytest.mark.plain
def test_a_folder_of_something_else_is_an_error_of_all(tmp_path):
    """Rank 0 looks: to the others the folder may be one that it is just making."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("")

    first, second = outcomes(2, save_where_rank_0_looks, tmp_path)

    assert "model holds something that is not a saved model" in str(first.error)
    assert "save failed on rank 0: FileExistsError: " in str(second.error)
