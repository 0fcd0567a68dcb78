"""Frontends: plugins that contribute commands."""
