"""S3: one bounded, logged loop of retries, errors that say what to check, a pyarrow handler.

Endpoint, region and credentials come from the standard chain of AWS only (environment, profile,
role of the machine), so nothing secret is in an object of this package or in its pickle.
"""
