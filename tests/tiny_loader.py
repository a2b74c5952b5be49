"""Models, as far as a loader asks for them, whose transforms are made by the tests."""

from types import SimpleNamespace

import torch

from mmfuse.tasks import Classification


def model_of(tasks=None, **transforms):
    """Something with encoders and tasks; the encoders hand out the given transforms."""
    encoders = {
        name: SimpleNamespace(transform=lambda train, made=made: made, dim=4) for name, made in transforms.items()
    }
    return SimpleNamespace(encoders=encoders, tasks={"y": Classification(4, ["a", "b"])} if tasks is None else tasks)


class Number:
    """A number as a vector of one value."""

    takes_path = False
    padding = None
    random = False

    def __call__(self, value):
        return torch.tensor([float(value)])

    def blank(self):
        return torch.zeros(1)


class Letters:
    """A text as a sequence of numbers, at most five; several in one call."""

    takes_path = False
    padding = 0
    random = False

    def __init__(self):
        self.calls = []

    def __call__(self, value):
        return self.batch([value])[0][0]

    def batch(self, values):
        self.calls.append(list(values))
        if any(value == "bad" for value in values):
            raise ValueError("The text is bad. Expected a good one. Write another.")
        return [torch.tensor([ord(c) for c in text[:5]]) for text in values], [max(0, len(v) - 5) for v in values]

    def blank(self):
        return torch.zeros(1, dtype=torch.int64)
