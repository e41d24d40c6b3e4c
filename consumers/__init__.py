"""What comes in: sources of records, and the decoding of records into messages."""
