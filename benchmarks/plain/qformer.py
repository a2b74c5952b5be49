"""Learned queries that read each other and every other layer the tokens, plainly."""

import torch
from plain._attention import attend, attend_self


def qformer(fusion, features):
    tokens = torch.cat([project(features[name].tokens) for name, project in fusion.join.project.items()], dim=1)
    tokens = fusion.norm_tokens(tokens)
    queries = fusion.queries.expand(len(tokens), -1, -1)
    for place, layer in enumerate(fusion.layers):
        queries = queries + attend_self(layer.attend_self, layer.norm_self(queries))
        if place % 2 == 0:
            queries = queries + attend(layer.attend_cross, layer.norm_cross(queries), tokens)
        queries = queries + layer.feed_forward(layer.norm_feed_forward(queries))
    return fusion.norm(queries).mean(dim=1)
