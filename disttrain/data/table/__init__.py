"""The table: what each column of a dataset holds, and how it becomes float32 numbers."""
