"""The `grammar_tools` frontend: `llamakit grammar`."""
