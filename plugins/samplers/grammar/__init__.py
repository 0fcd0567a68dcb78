"""The `grammar` sampler: lets only tokens through that a grammar, schema, pattern or list of choices allows."""
