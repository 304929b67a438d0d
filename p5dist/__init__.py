"""p5dist: unified pre-training for recommender systems on Ray, TorchRec and Ray Train."""

__version__ = "0.1.0"
