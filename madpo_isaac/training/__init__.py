"""Training: the loop of a run, the learners in it, and the callbacks that watch and save it."""
