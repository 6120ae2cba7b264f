"""What the data of a run looks like: figures from its folder alone, for pages, programs and people."""
