"""What every store must do, whichever engine it is; one suite for the Store protocol, run over each."""
