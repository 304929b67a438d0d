"""S3: bounded and logged retries, errors that say what to check, a pyarrow handler.

Endpoint, region and credentials come only from the standard chain of AWS (environment, profile,
role of the machine), so no object of this package, nor its pickle, contains a secret.
"""
