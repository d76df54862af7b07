"""``reproduce.py``: the runs behind the figures and tables of the MADPO paper."""
