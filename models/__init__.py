"""The mathematics of ComfyUI-ReEdit, in plain PyTorch. Nothing in here imports the host."""
