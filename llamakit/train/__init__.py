"""Training: data, schedules, the trainer and its checkpoints. Knows no engine; `session` puts it together."""
