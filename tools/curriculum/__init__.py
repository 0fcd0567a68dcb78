"""A small world whose truth is known: seeded texts, questions, tool calls and JSON for the model that ships inside.

`words` are the things there are, `world` the facts and how they are told, the other modules one kind of task each,
`mix` the order in which they are learned, `write` the files.
"""
