"""The device: selection, memory, recorded CUDA graphs."""
