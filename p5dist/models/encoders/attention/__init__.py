"""Attention of every interaction over the interactions of its history, in three ways that agree up
to rounding:

============ ==================== ===============================================================
file         where                how
============ ==================== ===============================================================
padded       CPU, other devices   histories of nearly equal length share a rectangle
jagged       CUDA                 Triton kernels (kernels.py) without padding and without scores
                                  in memory: softmax and SiLU, float32 and bfloat16, biases
varlen       CUDA                 FlashAttention of PyTorch: softmax without biases, bfloat16
============ ==================== ===============================================================

attend.py chooses.
"""
