"""Lists of recommended items: for whom, of which items, parts on disk. The stage is
``recommend.py``."""
