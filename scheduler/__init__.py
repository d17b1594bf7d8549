"""What a person touches: the command line, the local stack, the demo."""
