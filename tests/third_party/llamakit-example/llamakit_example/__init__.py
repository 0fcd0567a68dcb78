"""A plugin package as anybody may write it: a backend, an architecture, a sampler and a command."""
