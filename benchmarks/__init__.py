"""Speed, measured beside the peers: `make bench`, or `make bench ROW=name` for one row."""
