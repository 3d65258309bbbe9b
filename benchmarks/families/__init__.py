"""Every model family of the installed transformers, built tiny, run and compared with an independent float64 reference."""
