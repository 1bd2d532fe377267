"""What a run keeps of its training: the file format, where files go, and how another run is compared."""
