"""Rows as a DataLoader of torch is used with them, one by one; batches by hand; a GRU over packed sequences."""

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import Dataset


class Rows(Dataset):
    """A mapping of arrays, row by row."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, row):
        return {name: array[row] for name, array in self.arrays.items()}


def batches(paths, transform, batch_size):
    """The same transform on the same files, stacked or padded, and nothing else."""
    for start in range(0, len(paths), batch_size):
        tensors = [transform(path) for path in paths[start : start + batch_size]]
        yield torch.stack(tensors) if transform.padding is None else pad_sequence(tensors, batch_first=True)


def packed(cells, projected, lengths):
    """Mean of the states of a GRU or LSTM over the real steps, by packing. ``lengths`` on the CPU, as packing asks."""
    states, _ = cells(pack_padded_sequence(projected, lengths, batch_first=True, enforce_sorted=False))
    tokens, _ = pad_packed_sequence(states, batch_first=True, total_length=projected.shape[1])
    return tokens.sum(dim=1) / lengths[:, None]
