"""One latent array updated by each modality in turn, plainly: keys are projected again in each round."""

from plain._attention import cross_block, self_block


def healnet(fusion, features):
    tokens = {name: project(features[name].tokens) for name, project in fusion.project.items()}
    batch = len(next(iter(tokens.values())))
    latents = fusion.latents.expand(batch, -1, -1)
    for _ in range(fusion.num_rounds):
        for name in sorted(tokens):
            latents = self_block(fusion.block, cross_block(fusion.cross[name], latents, tokens[name]))
    return fusion.norm(latents).mean(dim=1)
