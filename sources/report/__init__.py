"""What a data set holds and what is odd about it, in words that say what to do."""
