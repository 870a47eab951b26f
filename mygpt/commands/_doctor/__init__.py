"""What `mygpt doctor` finds: the probes, the remedies, and what is kept private."""
