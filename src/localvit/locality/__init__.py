"""The idea of LocalViT: a feed-forward network with a depth-wise convolution, and its place in a transformer."""
