"""Workers: the loop that trains a study's trials, and the lease that keeps them alive."""
