"""Tables: rows of cells held by column, read from any source, and the files that cells name."""
