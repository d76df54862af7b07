"""``madpo report``: figures, statistics and one page about a set of runs."""
