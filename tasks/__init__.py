"""One step of an operation each: a task opens the systems, calls one function of `darkroom`, returns small values."""
