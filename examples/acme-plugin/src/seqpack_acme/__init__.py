"""The smallest seqpack plugin: a handler, a template and a packing strategy."""
