"""Compute backends."""
