"""The stages of a pipeline: middleware run over batches, one answer for each."""
