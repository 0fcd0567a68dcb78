"""Passes over graphs: pure functions, each tested by its invariant."""
