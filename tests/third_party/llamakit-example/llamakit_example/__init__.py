"""A plugin package as anybody may write it: a backend, a sampler and a command."""
