"""The plugins that LlamaKit ships, installed as `llamakit.plugins`; each file or folder is one plugin."""
