"""Fine-tuning with user-level differential privacy.

=========== =======================================================================================
file        content
=========== =======================================================================================
budget      which data and settings allow it; noise ↔ ε (torch-free)
noise       the noise: a function of key, run, step and place
rows        small tables of items as whole, differentiable copies; their update
step        one step: a gradient for each user, clipped, added up, noise
=========== =======================================================================================
"""
