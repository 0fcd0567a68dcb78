"""The data of a training run: files to records, records to samples, some of them held back for validation."""
