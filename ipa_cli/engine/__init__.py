"""A loaded model made ready, and what is done with it: the only place where model, graph, cache and pipeline meet."""
