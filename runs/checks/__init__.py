"""What can be known to go wrong before a run is begun: the dry run and the start ask alike."""
