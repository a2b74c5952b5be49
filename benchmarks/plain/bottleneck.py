"""The bottleneck transformer, plainly: a loop over modalities, as in the authors' code, with attention written out."""

import torch
from plain._attention import self_block


def bottleneck(fusion, features):
    streams = {}
    for name, project in fusion.project.items():
        tokens = project(features[name].tokens)
        streams[name] = torch.cat([fusion.cls[name].expand(len(tokens), 1, -1), tokens], dim=1)
    shared = fusion.bottleneck.expand(len(tokens), -1, -1)
    for place, layer in enumerate(fusion.layers):
        written = []
        for name, tokens in streams.items():
            if place < fusion.fusion_layer:
                streams[name] = self_block(layer[name], tokens)
                continue
            read = self_block(layer[name], torch.cat([tokens, shared], dim=1))
            streams[name] = read[:, : tokens.shape[1]]
            written.append(read[:, tokens.shape[1] :])
        if written:
            shared = torch.stack(written).mean(dim=0)
    return torch.stack([fusion.norm(tokens)[:, 0] for tokens in streams.values()]).mean(dim=0)
