"""The depth-aware vision-language model (seed 003): encodings of depth, the model, its training, and its scores."""
