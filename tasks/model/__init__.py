"""A model in memory: weights, tokenizer, batches."""
