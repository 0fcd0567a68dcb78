"""Conversations: chat templates and the prompts they make, thoughts and calls of tools in the answers."""
