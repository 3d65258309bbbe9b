"""The Triton twins of the operators. Imported only when a tensor on CUDA or ROCm reaches one of them."""
