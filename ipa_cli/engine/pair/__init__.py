"""One picture on two GPUs: a process for the second one computes the positive half of guidance."""
