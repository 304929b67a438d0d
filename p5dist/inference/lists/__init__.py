"""Lists of recommended items: for whom, which items, parts on disk (the stage: ``recommend.py``)."""
