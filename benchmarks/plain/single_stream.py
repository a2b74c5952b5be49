"""The single-stream transformer, plainly: as in ViLT, with attention written out."""

import torch
from plain._attention import self_block


def single_stream(fusion, features):
    tokens = [project(features[name].tokens) for name, project in fusion.join.project.items()]
    stream = torch.cat([fusion.cls.expand(len(tokens[0]), 1, -1), *tokens], dim=1)
    for block in fusion.blocks:
        stream = self_block(block, stream)
    return fusion.norm(stream)[:, 0]
