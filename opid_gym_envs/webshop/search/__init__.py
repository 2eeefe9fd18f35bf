"""The shop's search engine: BM25 with the ranks of Lucene, and Lucene itself to compare with."""
