"""Files of weights, in and out: our own, the authors' and bare ones."""
