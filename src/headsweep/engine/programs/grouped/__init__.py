"""MLP and linear heads on a GPU: a train step of all slots in some twenty Triton kernels."""
