"""Kinds of a shop, each in one file: a task, an encoder, an attribute kind, a source format.

If the package is installed, a job file names the kinds ``dwell``, ``fading``, ``domain_of_url`` and
``key_values``; otherwise by import path, such as ``shop_kinds.dwell:Dwell``.
"""
