"""The CSV format: header, row index, and a compiled parser."""
