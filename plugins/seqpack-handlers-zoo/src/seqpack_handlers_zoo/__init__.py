"""seqpack handlers for one data set each."""
