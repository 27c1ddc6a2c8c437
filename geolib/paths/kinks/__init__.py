"""Maps with kinks: cells between them, polygons across them, and what these can gain."""
