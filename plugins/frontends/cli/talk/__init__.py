"""`llamakit chat`: the conversation, its commands, and how it is read and shown in a terminal."""
