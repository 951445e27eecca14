"""Training of decoders: `python -m models.training --help` from the pack's folder."""
