"""Kinds of a shop, each in one file: a task, an encoder, an attribute kind, a source format.

With the package installed, a job file names them ``dwell``, ``fading``, ``domain_of_url`` and
``key_values``; without, by their paths, such as ``shop_kinds.dwell:Dwell``.
"""
