"""JSON Schema straight to the grammar's rules."""
