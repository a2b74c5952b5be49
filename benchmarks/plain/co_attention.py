"""Co-attention, plainly: both streams in a loop, with attention written out as in ViLBERT."""

from plain._attention import self_block
from plain.cross_attention import exchange, read_out


def co_attention(fusion, features):
    tokens = {name: project(features[name].tokens) for name, project in fusion.project.items()}
    for layer in fusion.layers:
        tokens = exchange(layer.exchange, tokens)
        tokens = {name: self_block(layer.stream[name], x) for name, x in tokens.items()}
    return read_out(fusion.readout, tokens)
