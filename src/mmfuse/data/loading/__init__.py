"""From the rows of a table, or of any dataset, to batches."""
