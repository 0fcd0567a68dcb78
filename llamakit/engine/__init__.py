"""The engine: batches requests, keeps their place in the KV cache, samples their tokens."""
