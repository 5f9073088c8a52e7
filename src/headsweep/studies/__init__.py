"""Studies: what is searched (spec, space), how (policy), and where it is recorded (store)."""
