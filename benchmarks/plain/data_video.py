"""Frames of a clip, plainly: decoded one after the other up to the last one that is wanted."""

import av
import numpy as np
import torch


def read(path, indices, size):
    wanted, frames = set(indices), {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames[index] = square(frame, size)
            if index == indices[-1]:
                break
    return torch.from_numpy(np.stack([frames[index] for index in indices])).permute(0, 3, 1, 2)


def square(frame, size):
    """The centre of a frame, resized by FFmpeg."""
    height = round(size * frame.height / min(frame.height, frame.width))
    width = round(size * frame.width / min(frame.height, frame.width))
    pixels = frame.reformat(width, height, format="rgb24").to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]
