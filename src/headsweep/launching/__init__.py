"""Start workers on this machine or on Slurm, and monitor them."""
