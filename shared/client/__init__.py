"""What the five clients share: resuming, HTTP, the command line and the shell. No server loads it."""
