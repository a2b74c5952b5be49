"""Latents that read all tokens, plainly: keys are projected again in each round, and one query reads the latents."""

import torch
from plain._attention import cross_block, self_block
from plain.pooling import attention_pool


def perceiver(fusion, features):
    tokens = torch.cat([project(features[name].tokens) for name, project in fusion.join.project.items()], dim=1)
    latents = fusion.latents.expand(len(tokens), -1, -1)
    for _ in range(fusion.num_rounds):
        latents = cross_block(fusion.cross, latents, tokens)
        for block in fusion.blocks:
            latents = self_block(block, latents)
    return attention_pool(fusion.pool, fusion.norm(latents))
