"""Parts with more than one user: masking, attention."""
