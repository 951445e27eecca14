"""Diffusion: how a mask acts on what a model predicts."""
