"""Autoencoders: what a file of weights holds, and how its pixels and latents correspond."""
