"""Messages as JSON lines, CSV and Parquet, formatted column by column."""
