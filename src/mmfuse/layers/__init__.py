"""Parts with more than one user: masking, attention, transformer blocks, reading of modalities."""
