"""Ways to train the slots of a group: one program for each kind of head."""
