"""A trained run in forms that need no p5dist.

============ ============================================================================
weights.py   the weights of a stage as one safetensors file
encoder.py   the user encoder for padded histories, by torch.export or as ONNX
package.py   a folder: encoder, item vectors, ids, configuration, model card
index.py     item vectors as an index of FAISS, with its recall and latency
============ ============================================================================
"""
