"""What to try: study files, search spaces, samplers and pruners."""
